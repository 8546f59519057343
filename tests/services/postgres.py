"""PostgreSQL: the machine's own programs where they are installed, else Debian's package. It refuses to run as root."""

from __future__ import annotations

import os
import pwd
import signal
from pathlib import Path

from tests.services import probes
from tests.services.command import run
from tests.services.debian import Bundle, unpacked
from tests.services.errors import ServiceUnavailable
from tests.services.ports import free_port
from tests.services.process import Process, clean_env, spawn
from tests.services.server import Server

LIBRARIES = (
    "libpq5 libldap2 libsasl2-2 libgssapi-krb5-2 libkrb5-3 libk5crypto3 libkrb5support0 libcom-err2 "
    "libkeyutils1 libpam0g libaudit1 libcap-ng0 libicu76 libxml2 liblzma5 liblz4-1"
)
BUNDLE = Bundle(
    "postgresql-17",
    packages=("postgresql-17", *LIBRARIES.split()),
    programs=("usr/lib/postgresql/*/bin",),
)


class Postgres(Server):
    """Durable as a production server is by default, since the benchmarks commit to it."""

    name = "postgres"
    stop_signal = signal.SIGINT  # 'fast': open connections are closed

    def __init__(self, data: Path) -> None:
        super().__init__(data)
        self.programs = _installed() or unpacked(BUNDLE) / "usr/lib/postgresql/17/bin"
        self.port = free_port()
        self.url = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"
        self._user = _unprivileged()

    def env(self) -> dict[str, str]:
        return {"TEST_DATABASE_URL": self.url}

    def _spawn(self) -> Process:
        cluster = self.data / "cluster"
        if not (cluster / "PG_VERSION").exists():
            self._create(cluster)
        settings = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": 200,
            "timezone": "GMT",
            "log_timezone": "GMT",
            "jit": "off",
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        command: list[str | Path] = [self.programs / "postgres", "-D", cluster, *options]
        return spawn(command, env=clean_env("PG"), folder=cluster, output=self.output, user=self._user)

    def _create(self, cluster: Path) -> None:
        cluster.mkdir(mode=0o700)
        if self._user is not None:
            os.chown(cluster, self._user, -1)
            self.data.chmod(0o755)
        options = "-U postgres --auth=trust --encoding=UTF8 --locale=C --no-sync --no-instructions"
        run(
            [self.programs / "initdb", "-D", cluster, *options.split()],
            env=clean_env("PG", TZ="GMT"),
            folder=cluster,
            user=self._user,
        )

    def answers(self) -> bool:
        return probes.postgres(self.url)


def _installed() -> Path | None:
    """The folder of the newest PostgreSQL that Debian's or Ubuntu's package installed."""
    found = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    return max((path.parent for path in found), key=lambda folder: float(folder.parent.name), default=None)


def _unprivileged() -> int | None:
    """The user that PostgreSQL runs as where we are root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_uid
        except KeyError:
            continue
    raise ServiceUnavailable("PostgreSQL refuses to run as root, and there is no user postgres or nobody here")


def start_postgres(data: Path) -> Postgres:
    """A PostgreSQL of one's own, its data under `data`."""
    server = Postgres(data)
    server.start()
    return server
