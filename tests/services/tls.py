"""A throw-away certificate authority and a server certificate for 127.0.0.1 and localhost, made by openssl."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.services.command import run
from tests.services.errors import ServiceUnavailable


def make_certificates(folder: Path, prefix: Path | None = None) -> Path:
    """Write `ca.pem`, `server.pem` and `server.key` to the folder; returns the CA's path."""
    ca = folder / "ca.pem"
    if ca.exists():
        return ca
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "openssl.cnf").write_text("[req]\ndistinguished_name = name\n[name]\n")
    (folder / "server.ext").write_text("subjectAltName = DNS:localhost, IP:127.0.0.1\nextendedKeyUsage = serverAuth\n")
    new = "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -config openssl.cnf"
    authority = "-addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign"
    sign = "-CA ca.pem -CAkey ca.key -CAcreateserial -extfile server.ext"
    for arguments in (
        f"{new} -x509 -days 30 -subj /CN=pipeline-tests {authority} -keyout ca.key -out ca.pem",
        f"{new} -subj /CN=localhost -keyout server.key -out server.csr",
        f"x509 -req -days 30 -in server.csr {sign} -out server.pem",
    ):
        _openssl(arguments, folder, prefix)
    (folder / "server.key").chmod(0o644)  # a container's user reads it too; it protects nothing
    return ca


def _openssl(arguments: str, folder: Path, prefix: Path | None) -> None:
    program = shutil.which("openssl") or (str(prefix / "usr/bin/openssl") if prefix else None)
    if program is None:
        raise ServiceUnavailable("the TLS listener's certificate needs openssl: type `sudo apt-get install openssl`")
    run([program, *arguments.split()], env={**os.environ, "OPENSSL_CONF": "/dev/null"}, folder=folder)
