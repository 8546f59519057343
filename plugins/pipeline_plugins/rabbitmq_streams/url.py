"""Where RabbitMQ is and how to log in: the broker's URL taken apart, and put together from the environment."""

from __future__ import annotations

import difflib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Self
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

from pipeline.connectors import BrokerRefused

__all__ = ["PLAIN", "TLS", "Address", "Node", "parse_url", "url_from_environment"]

Node = tuple[str, int]
"""A node's host and port."""

PLAIN: Final = "rabbitmq-stream"
TLS: Final = "rabbitmq-stream+tls"
_PORTS: Final = {PLAIN: 5552, TLS: 5551}
_TLS_OPTIONS: Final = ("ca", "cert", "key", "verify", "server_name")
_OPTIONS: Final = (*_TLS_OPTIONS, "heartbeat", "load_balancer")
_TRUE: Final = frozenset({"true", "1", "yes", "on"})
_FALSE: Final = frozenset({"false", "0", "no", "off"})
_SHAPE: Final = "rabbitmq-stream://user:password@host:5552/vhost"


@dataclass(frozen=True, slots=True)
class Address:
    """What a broker's URL says.

    Attributes:
        host: A host name or an IP address.
        port: The port of the stream protocol.
        user: Who logs in.
        password: Their password; never part of a message.
        vhost: The virtual host.
        tls: Whether the connection is encrypted.
        ca: A file of the certificate authorities to trust; None for the system's.
        cert: A file of the client's own certificate (and chain), where the broker asks for one.
        key: The file of its private key; None where `cert` holds it too.
        verify: Whether the broker's certificate is checked.
        server_name: The name to expect in it, where it is not `host`.
        heartbeat: Seconds between heartbeats; a peer that is silent for two and a half of them, or three, is given up.
        load_balancer: The host is a load balancer: never connect to the addresses that the nodes advertise.
        others: More nodes of the same cluster, any of which does where `host` can't be reached.
    """

    host: str
    port: int
    user: str = "guest"
    password: str = "guest"  # noqa: S105 - RabbitMQ's own default, which it accepts from the same machine only
    vhost: str = "/"
    tls: bool = False
    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    verify: bool = True
    server_name: str | None = None
    heartbeat: int = 8
    load_balancer: bool = False
    others: tuple[Node, ...] = ()

    @property
    def nodes(self) -> tuple[Node, ...]:
        """All nodes that the URL names, the one to try first at the front."""
        return ((self.host, self.port), *self.others)

    def at(self, node: Node) -> Self:
        """The same, with this one of its nodes at the front."""
        others = tuple(each for each in self.nodes if each != node)
        return replace(self, host=node[0], port=node[1], others=others)

    @property
    def node(self) -> str:
        """Host and port, for people."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def tls_context(self) -> ssl.SSLContext | None:
        """The TLS settings; None for a plain connection.

        Raises:
            BrokerRefused: A certificate file is missing or can't be used.
        """
        if not self.tls:
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca)
            if self.cert is not None:
                context.load_cert_chain(self.cert, self.key)
        except OSError as error:  # ssl.SSLError is one too
            files = ", ".join(file for file in (self.ca, self.cert, self.key) if file)
            raise BrokerRefused(f"the broker's URL names a file that can't be used ({files}): {error}") from error
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def parse_url(url: str) -> Address:
    """The address that a URL spells.

    Raises:
        BrokerRefused: The URL is wrong; the message says what, and never holds the password.
    """
    url, more = _apart(url)
    try:
        parts = urlsplit(url)
        port = parts.port
        others = [(each.hostname, each.port) for each in (urlsplit(f"//{host}") for host in more)]
    except ValueError:  # its text may hold a part of a password with a '/' in it
        raise _bad(
            "a host or a port of it can't be read: a port is a number, and a '/' in a password is written %2F"
        ) from None
    if parts.netloc.count("@") > 1:
        raise _bad("it has more than one '@': name the user once, before the first host, and write %40 in a password")
    if parts.scheme not in _PORTS:
        raise _bad(f"the scheme {parts.scheme!r} is neither {PLAIN!r} nor {TLS!r}")
    if not parts.hostname or not all(host for host, _ in others):
        raise _bad("it names no host" if not others else "one of its hosts is empty")
    if parts.fragment:
        raise _bad("it holds a '#': write %23 for one in a password or vhost")
    options = _options(parts.query, parts.scheme)
    return Address(
        host=unquote(parts.hostname),
        port=port if port is not None else _PORTS[parts.scheme],
        user=unquote(parts.username) if parts.username else "guest",
        password=unquote(parts.password) if parts.password is not None else "guest",
        vhost=_vhost(parts),
        tls=parts.scheme == TLS,
        ca=options.get("ca"),
        cert=options.get("cert"),
        key=options.get("key"),
        verify=_flag("verify", options.get("verify", "true")),
        server_name=options.get("server_name"),
        heartbeat=_heartbeat(options.get("heartbeat", "8")),
        load_balancer=_flag("load_balancer", options.get("load_balancer", "false")),
        others=tuple((unquote(host or ""), each or _PORTS[parts.scheme]) for host, each in others),
    )


def url_from_environment(environ: Mapping[str, str]) -> tuple[str, str] | None:
    """The URL that RabbitMQ's variables spell, and their names; None where ``RABBITMQ_HOST`` is not set."""
    host = environ.get("RABBITMQ_HOST", "")
    if not host:
        return None
    tls = _flag("RABBITMQ_TLS", environ.get("RABBITMQ_TLS") or "false")
    scheme = TLS if tls else PLAIN
    user = quote(environ.get("RABBITMQ_USER") or "guest", safe="")
    password = quote(environ.get("RABBITMQ_PASS") or "guest", safe="")
    vhost = quote(environ.get("RABBITMQ_VHOST") or "/", safe="")
    port = environ.get("RABBITMQ_STREAM_PORT") or str(_PORTS[scheme])
    hosts = ",".join(f"{_literal(each.strip())}:{port}" for each in host.split(","))
    query = f"?{urlencode({'ca': environ['RABBITMQ_CA']})}" if tls and environ.get("RABBITMQ_CA") else ""
    names = ("HOST", "STREAM_PORT", "USER", "PASS", "VHOST", "TLS", "CA")
    used = [f"RABBITMQ_{name}" for name in names if environ.get(f"RABBITMQ_{name}")]
    return f"{scheme}://{user}:{password}@{hosts}/{vhost}{query}", ", ".join(used)


def _literal(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _apart(url: str) -> tuple[str, list[str]]:
    """The URL with the first of its hosts only, and the others, with their ports: `urlsplit` knows of one host."""
    scheme, slashes, rest = url.partition("://")
    end = next((place for place, sign in enumerate(rest) if sign in "/?#"), len(rest))
    login, at, hosts = rest[:end].rpartition("@")
    first, *others = hosts.split(",")
    return f"{scheme}{slashes}{login}{at}{first}{rest[end:]}", others


def _bad(reason: str) -> BrokerRefused:
    return BrokerRefused(f"the broker's URL is wrong: {reason}; write it like {_SHAPE}")


def _vhost(parts: SplitResult) -> str:
    path = parts.path.removeprefix("/")
    if "/" in path:
        raise _bad(f"the vhost {path!r} holds a '/': write it as %2F")
    return unquote(path) or "/"


def _options(query: str, scheme: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in _OPTIONS:
            near = difflib.get_close_matches(name, _OPTIONS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(_OPTIONS)}"
            raise _bad(f"it has no option {name!r} ({hint})")
        if not value:
            raise _bad(f"the option {name!r} is empty")
        if name in _TLS_OPTIONS and scheme != TLS:
            raise _bad(f"the option {name!r} is about TLS: use the scheme {TLS!r}, or leave it out")
        options[name] = value
    if "key" in options and "cert" not in options:
        raise _bad("the option 'key' needs 'cert', the certificate that the key belongs to")
    return options


def _flag(name: str, value: str) -> bool:
    word = value.strip().lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise BrokerRefused(f"{name} is {value!r}: write true or false")


def _heartbeat(value: str) -> int:
    if value.isascii() and value.isdigit() and 1 <= int(value) <= 3600:
        return int(value)
    raise _bad(f"the option 'heartbeat' is {value!r}: write whole seconds, 1 to 3600")
