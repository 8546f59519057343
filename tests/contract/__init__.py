"""One suite that every connector passes; see README.md for how a new one joins."""
