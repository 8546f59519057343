"""Which broker, database and queue: from the file, else the environment, else the embedded default."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urlsplit

from pipeline.config.catalog import Catalog
from pipeline.config.environment import Environment
from pipeline.config.problems import Problems, near
from pipeline.errors import UserError

if TYPE_CHECKING:
    from pipeline.connectors import Connector

__all__ = ["DEFAULT_DATABASE", "Endpoint", "broker", "database", "jobs"]

DEFAULT_DATABASE: Final = "sqlite:///.pipeline/pipeline.db"
"""Relative to the current directory, as the embedded broker's file is."""

_DATABASE_SCHEMES = ("sqlite", "postgresql", "postgres")
_QUEUE_SCHEMES = ("redis", "rediss", "unix")
_REDIS_PARTS = ("REDIS_HOST", "REDIS_PORT", "REDIS_USERNAME", "REDIS_PASSWORD", "REDIS_DB", "REDIS_TLS")
_TRUE = ("true", "1", "yes", "on")
_FALSE = ("false", "0", "no", "off")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A URL, and where it came from.

    Attributes:
        url: The URL; None for an embedded queue or none at all, and where none could be found.
        origin: ``environment DATABASE_URL``, ``default (embedded)``; empty where the file gives it.
    """

    url: str | None
    origin: str = ""


def broker(url: str | None, environment: Environment, catalog: Catalog, problems: Problems) -> Endpoint:
    """The broker: the file's URL, ``PIPELINE_BROKER_URL``, a broker's own variables, or the embedded one."""
    try:
        found = Endpoint(url) if url else _broker_outside(environment, catalog)
    except (UserError, ValueError) as error:
        problems.outside["broker", "url"] = "the environment"
        problems.add(("broker", "url"), str(error))
        return Endpoint(None)
    if found is None:
        problems.add(("broker", "url"), "there is no broker: set it, or install pipeline-runner[embedded]")
        return Endpoint(None)
    _known("broker", found, catalog.connectors, problems)
    if connector := catalog.connectors.get(scheme_of(found.url or "")):
        try:
            connector(found.url or "")
        except (UserError, ValueError) as error:
            problems.add(("broker", "url"), str(error))
    return found


def database(url: str | None, environment: Environment, problems: Problems) -> Endpoint:
    """The database: the file's URL, ``DATABASE_URL``, or SQLite in `DEFAULT_DATABASE`."""
    found = Endpoint(url) if url else _variable("DATABASE_URL", environment)
    return _known("database", found or Endpoint(DEFAULT_DATABASE, "default (embedded)"), _DATABASE_SCHEMES, problems)


def jobs(
    url: str | None, environment: Environment, problems: Problems, *, declared: bool = False, needed: bool = False
) -> Endpoint:
    """The queue: the file's URL, ``REDIS_URL``, one made of ``REDIS_HOST`` and its companions, or none.

    Args:
        url: The file's URL.
        environment: The variables.
        problems: Gets what is wrong.
        declared: Whether the file has a ``[jobs]`` table: then the queue is embedded where there is no URL.
        needed: Whether any stage leaves jobs.
    """
    found = Endpoint(url) if url else _variable("REDIS_URL", environment) or _redis_parts(environment, problems)
    if found is None:
        origin = "default (embedded)" if declared else "default (inline)"
        problems.outside["jobs", "url"] = origin
        if declared and not (_installed("arq") and _installed("fakeredis")):
            problems.add(
                ("jobs",), "the queue is embedded without a 'url': set it, or install pipeline-runner[embedded]"
            )
        return Endpoint(None, origin)
    _known("jobs", found, _QUEUE_SCHEMES, problems)
    if (declared or needed) and not _installed("arq"):
        problems.add(("jobs", "url"), "a queue in Redis needs arq: install pipeline-runner[jobs]")
    if wrong := _unlike_redis(found.url or ""):
        advice = "a password's '#', '/', '?' and '@' must be percent-encoded"
        problems.add(("jobs", "url"), f"it is no URL of Redis: {wrong}; {advice}")
    return found


def scheme_of(url: str) -> str:
    """The URL's scheme, in small letters; empty where it has none."""
    scheme, found, _ = url.partition(":")
    return scheme.lower() if found else ""


def _broker_outside(environment: Environment, catalog: Catalog) -> Endpoint | None:
    if found := _variable("PIPELINE_BROKER_URL", environment):
        return found
    connectors: list[type[Connector]] = list(dict.fromkeys(catalog.connectors.values()))
    for connector in connectors:
        if spelled := connector.url_from_environment(environment):
            return Endpoint(spelled[0], f"environment {spelled[1]}")
    for connector in connectors:
        if connector.default_url:
            return Endpoint(connector.default_url, "default (embedded)")
    return None


def _variable(name: str, environment: Environment) -> Endpoint | None:
    url = environment.value(name)
    return Endpoint(url, f"environment {environment.named(name)}") if url else None


def _redis_parts(environment: Environment, problems: Problems) -> Endpoint | None:
    """``REDIS_HOST`` and its companions as one URL."""
    given = {name: value for name in _REDIS_PARTS if (value := environment.value(name))}
    host = given.get("REDIS_HOST")
    if host is None:
        return None
    tls = given.get("REDIS_TLS", "false").lower()
    if tls not in (*_TRUE, *_FALSE):
        problems.add((), f"{environment.named('REDIS_TLS')} must be true or false, not {tls!r}")
    user, password = (quote(given.get(name, ""), safe="") for name in ("REDIS_USERNAME", "REDIS_PASSWORD"))
    login = f"{user}:{password}@" if password else f"{user}@" if user else ""
    address = f"[{host}]" if ":" in host else host
    scheme = "rediss" if tls in _TRUE else "redis"
    return Endpoint(
        f"{scheme}://{login}{address}:{given.get('REDIS_PORT', '6379')}/{given.get('REDIS_DB', '0')}",
        f"environment {', '.join(map(environment.named, given))}",
    )


def _unlike_redis(url: str) -> str | None:
    """What redis-py would complain of with words that may hold a part of the password, or would silently leave out."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return "its host or port can't be read"
    if parts.scheme not in ("redis", "rediss"):
        return None
    if not url.lower().startswith(f"{parts.scheme}://"):
        return f"'//' and the host are missing, as in {parts.scheme}://localhost:6379/0"
    database = parts.path.strip("/")
    return None if not database or database.isdecimal() else "what follows the host is no number of a database"


def _installed(module: str) -> bool:
    """Whether it could be imported; it is not, as it is slow to."""
    return find_spec(module) is not None


def _known(kind: str, found: Endpoint, schemes: Iterable[str], problems: Problems) -> Endpoint:
    """The endpoint; complains of one whose scheme nothing serves."""
    url = found.url or ""
    scheme = scheme_of(url)
    if found.origin:
        problems.outside[kind, "url"] = found.origin
    if not scheme:
        _, login, rest = url.rpartition("@")
        shown = f"'…@{rest}'" if login else repr(url)  # what stands before the '@' may be a password
        problems.add((kind, "url"), f"{shown} is no URL: write one as in {next(iter(schemes), 'x')}://…")
    elif (scheme.partition("+")[0] if kind == "database" else scheme) not in schemes:
        problems.add((kind, "url"), f"nothing installed serves the scheme {scheme!r}{near(scheme, schemes)}")
    return found
