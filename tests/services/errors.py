"""The one error of this package: a service that can't be had, and why."""


class ServiceUnavailable(Exception):
    """A server can't be had here; the message says why and what to do about it."""
