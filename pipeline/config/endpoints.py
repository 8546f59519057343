"""Which broker, database and queue: from the file, else the environment, else the embedded default."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

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


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A URL, and where it came from.

    Attributes:
        url: The URL; None for the embedded queue, which has none, and where none could be found.
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


def jobs(url: str | None, environment: Environment, problems: Problems) -> Endpoint:
    """The queue: the file's URL, ``REDIS_URL``, one made of ``REDIS_HOST`` and its companions, or the embedded one."""
    found = Endpoint(url) if url else _variable("REDIS_URL", environment) or _redis_parts(environment)
    if found is None:
        problems.outside["jobs", "url"] = "default (embedded)"
        return Endpoint(None, "default (embedded)")
    return _known("jobs", found, _QUEUE_SCHEMES, problems)


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


def _redis_parts(environment: Environment) -> Endpoint | None:
    """``REDIS_HOST``, ``REDIS_PORT``, ``REDIS_PASSWORD``, ``REDIS_DB`` as one URL."""
    host = environment.value("REDIS_HOST")
    if host is None:
        return None
    password = environment.value("REDIS_PASSWORD")
    login = f":{quote(password, safe='')}@" if password else ""
    address = f"[{host}]" if ":" in host else host
    port, number = environment.value("REDIS_PORT") or "6379", environment.value("REDIS_DB") or "0"
    names = [name for name in ("REDIS_HOST", "REDIS_PORT", "REDIS_PASSWORD", "REDIS_DB") if environment.value(name)]
    return Endpoint(
        f"redis://{login}{address}:{port}/{number}", f"environment {', '.join(map(environment.named, names))}"
    )


def _known(kind: str, found: Endpoint, schemes: Iterable[str], problems: Problems) -> Endpoint:
    """The endpoint; complains of one whose scheme nothing serves."""
    url = found.url or ""
    scheme = scheme_of(url)
    if found.origin:
        problems.outside[kind, "url"] = found.origin
    if not scheme:
        problems.add((kind, "url"), f"{url!r} is no URL: write one as in {next(iter(schemes), 'x')}://…")
    elif (scheme.partition("+")[0] if kind == "database" else scheme) not in schemes:
        problems.add((kind, "url"), f"nothing installed serves the scheme {scheme!r}{near(scheme, schemes)}")
    return found
