"""Free loopback ports, outside the range from which the kernel takes those of outgoing connections."""

from __future__ import annotations

import random
import socket

_given: set[int] = set()
_random = random.SystemRandom()


def free_port() -> int:
    """A port that a server can take now and again after a restart: no outgoing connection will sit on it."""
    while True:
        port = _random.randrange(20_000, 32_000)
        if port not in _given and _can_bind(port):
            _given.add(port)
            return port


def _can_bind(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
