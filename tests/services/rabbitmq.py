"""RabbitMQ 4 with the stream plugin: AMQP 0.9.1, the stream protocol, and that over TLS."""

from __future__ import annotations

import secrets
from pathlib import Path

from tests.services import probes, tls
from tests.services.debian import Bundle, unpacked
from tests.services.ports import free_port
from tests.services.process import Process, clean_env, spawn, wait_until
from tests.services.server import Server

ERLANG = "base asn1 crypto eldap inets mnesia os-mon parsetools public-key runtime-tools ssl syntax-tools tools xmerl"
BUNDLE = Bundle(
    "rabbitmq-4",
    packages=("rabbitmq-server", "openssl", "libtinfo6", *(f"erlang-{part}" for part in ERLANG.split())),
    programs=("usr/lib/erlang/bin", "usr/lib/erlang/erts-*/bin", "usr/lib/erlang/lib/*/priv/bin", "usr/bin"),
    root="/usr/lib/erlang",
)


class RabbitMQ(Server):
    name = "rabbitmq"
    boot_seconds = 120.0

    def __init__(self, data: Path) -> None:
        super().__init__(data)
        self.prefix = unpacked(BUNDLE)
        self.port, self.stream_port, self.tls_port = free_port(), free_port(), free_port()
        self._dist_port, self._epmd_port = free_port(), free_port()
        self._epmd: Process | None = None
        self.ca = tls.make_certificates(data / "tls", self.prefix)
        self.amqp_url = f"amqp://guest:guest@127.0.0.1:{self.port}/"
        self.stream_url = f"rabbitmq-stream://guest:guest@127.0.0.1:{self.stream_port}/%2F"
        self.tls_url = f"rabbitmq-stream+tls://guest:guest@127.0.0.1:{self.tls_port}/%2F"
        self._env = self._environment()
        self._configure()

    def env(self) -> dict[str, str]:
        return {
            "TEST_RABBITMQ_STREAM_URL": self.stream_url,
            "TEST_AMQP_URL": self.amqp_url,
            "TEST_RABBITMQ_STREAM_TLS_URL": self.tls_url,
            "TEST_RABBITMQ_CA": str(self.ca),
        }

    def processes(self) -> list[Process]:
        return [*super().processes(), *([self._epmd] if self._epmd else [])]

    def _configure(self) -> None:
        (self.data / "home").mkdir(exist_ok=True)
        (self.data / "home/.erlang.cookie").write_text(secrets.token_hex(16))
        (self.data / "home/.erlang.cookie").chmod(0o400)
        (self.data / "enabled_plugins").write_text("[rabbitmq_stream].\n")
        (self.data / "rabbitmq.conf").write_text(
            f"listeners.tcp.default = 127.0.0.1:{self.port}\n"
            f"stream.listeners.tcp.default = 127.0.0.1:{self.stream_port}\n"
            f"stream.listeners.ssl.default = 127.0.0.1:{self.tls_port}\n"
            "stream.advertised_host = 127.0.0.1\n"
            f"stream.advertised_port = {self.stream_port}\n"
            "stream.advertised_tls_host = 127.0.0.1\n"
            f"stream.advertised_tls_port = {self.tls_port}\n"
            f"ssl_options.cacertfile = {self.ca}\n"
            f"ssl_options.certfile = {self.ca.with_name('server.pem')}\n"
            f"ssl_options.keyfile = {self.ca.with_name('server.key')}\n"
            "ssl_options.verify = verify_none\n"
            "disk_free_limit.absolute = 100MB\n"
            "log.console = true\n"
            "log.console.level = info\n"
        )

    def _environment(self) -> dict[str, str]:
        erlang = self.prefix / "usr/lib/erlang"
        env = clean_env("RABBITMQ_", "ERL_", "ERLANG_")
        return env | {
            "PATH": f"{erlang}/bin:{env.get('PATH', '/usr/bin:/bin')}",
            "HOME": f"{self.data}/home",
            "ERL_ROOTDIR": str(erlang),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"test{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_MNESIA_BASE": f"{self.data}/data",
            "RABBITMQ_LOG_BASE": f"{self.data}/log",
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_CONFIG_FILE": f"{self.data}/rabbitmq.conf",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{self.data}/enabled_plugins",
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_PID_FILE": f"{self.data}/pid",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} +sbwt none",
        }

    def _spawn(self) -> Process:
        if self._epmd is None or not self._epmd.alive():
            self._epmd = self._spawn_epmd()
        server = next(self.prefix.glob("usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server"))
        return spawn([server], env=self._env, folder=self.data, output=self.output)

    def _spawn_epmd(self) -> Process:
        """Erlang's name server. Left to itself, RabbitMQ would start one that outlives it and nobody ends."""
        program = next(self.prefix.glob("usr/lib/erlang/erts-*/bin/epmd"))
        process = spawn([program], env=self._env, folder=self.data, output=self.data / "epmd.log")
        wait_until(lambda: probes.connects(f"127.0.0.1:{self._epmd_port}"), seconds=10)
        return process

    def answers(self) -> bool:
        started = "Server startup complete" in self.output.read_text(errors="replace")
        return started and probes.amqp(self.amqp_url) and probes.stream(self.stream_url)


def start_rabbitmq(data: Path) -> RabbitMQ:
    """A RabbitMQ of one's own, its data under `data`."""
    server = RabbitMQ(data)
    server.start()
    return server
