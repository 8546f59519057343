"""Fuzzing: bytes that nobody meant, thrown at everything that reads bytes from outside."""
