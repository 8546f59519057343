"""Where a webhook goes: a URL taken apart once, so that what is checked is what is called."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Final
from urllib.parse import quote, urlsplit

from pipeline import Reject

__all__ = ["LONGEST_URL", "Target", "target_of"]

_PORTS = {"https": 443, "http": 80}
LONGEST_URL: Final = 2_000
"""Characters of a URL that may be called."""
_ODD = re.compile(r"[\x00-\x20\x7f\\]")
_HOST = re.compile(r"[a-z0-9_.-]{1,253}")
_KEEP = "%/:=&?~+!$,;'@()*[]"


@dataclass(frozen=True, slots=True)
class Target:
    """A URL's parts.

    Attributes:
        scheme: ``https`` or ``http``.
        host: A name in ASCII, or an address (an IPv6 one without brackets).
        port: The port.
        path: Path and query, percent-encoded.
    """

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """The header ``Host``."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


def target_of(url: str, *, allow_http: bool) -> Target:
    """Take a URL apart. Raises `Reject` (kind ``invalid_url``) where it is none that may be called."""
    if len(url) > LONGEST_URL or _ODD.search(url):
        raise _refused("it is too long, or holds blanks, control characters or backslashes")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise _refused(str(error)) from None
    if parts.scheme not in _PORTS:
        raise _refused("it must begin with https://")
    if parts.scheme == "http" and not allow_http:
        raise _refused("http:// is not allowed: set allow_http in [stage.governance.webhook] if it is meant")
    if "@" in parts.netloc:
        raise _refused("it must not hold a user's name or a password")
    if port == 0:
        raise _refused("port 0 can't be called")
    path = quote(parts.path or "/", safe=_KEEP) + (f"?{quote(parts.query, safe=_KEEP)}" if parts.query else "")
    return Target(parts.scheme, _host(parts.hostname or ""), port or _PORTS[parts.scheme], path)


def _host(host: str) -> str:
    if ":" in host:
        try:
            return str(IPv6Address(host))
        except ValueError as error:
            raise _refused(str(error)) from None
    try:
        name = host.encode("idna").decode("ascii").lower()
    except UnicodeError:
        raise _refused(f"{host!r} is no host") from None
    if not _HOST.fullmatch(name):
        raise _refused(f"{host!r} is no host")
    return name


def _refused(reason: str) -> Reject:
    return Reject(f"the webhook's URL can't be called: {reason}", kind="invalid_url")
