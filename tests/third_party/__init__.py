"""A plugin package as a stranger would write it, and what comes of installing it."""
