"""What the docs say, tested: commands typed, files checked, examples run."""
