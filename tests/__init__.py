"""The tests; `services` starts the servers that they run on."""
