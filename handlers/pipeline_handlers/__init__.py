"""First-party event handlers, each loaded through an entry point like a stranger's."""
