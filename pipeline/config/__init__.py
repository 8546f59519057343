"""The configuration: its models, and how `pipeline.toml` becomes them."""
