"""Stage policies: how a stage treats time and failure, one file each."""
