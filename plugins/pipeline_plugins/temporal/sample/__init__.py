"""A small workflow and its worker, so that a first event has something to pause."""
