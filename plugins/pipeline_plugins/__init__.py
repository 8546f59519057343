"""First-party connectors and resources, each loaded through an entry point like a stranger's."""
