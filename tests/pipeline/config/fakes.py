"""A small world of plugins to check configurations against."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

import pytest
from pydantic import BaseModel, ConfigDict, Field, field_validator

from pipeline.config.catalog import Catalog
from pipeline.config.load import Loaded, load
from pipeline.config.models import Policy, RetryPolicy
from pipeline.connectors import Connector
from pipeline.errors import ConfigError, Problem, UserError
from pipeline.expressions import Text
from pipeline.handlers import Handler
from pipeline.resources import Resource


class Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Row(Options):
    action: Text
    metadata: dict[str, Text] = {}


class AuditOptions(Options):
    row: tuple[Row, ...] = ()


class Audit(Handler[AuditOptions]):
    name = "audit"
    Options = AuditOptions


class ControlOptions(Options):
    signals: dict[str, str] = {"a": "pause"}
    in_flight: int = Field(50, ge=1)
    password: str = ""

    @field_validator("password")
    @classmethod
    def _long_enough(cls, value: str) -> str:
        if value == "short":
            raise ValueError("the password is too short")
        return value


class Control(Handler[ControlOptions]):
    name = "control"
    Options = ControlOptions
    resources = ("temporal",)
    policy = Policy(timeout=7.0, retry=RetryPolicy(attempts=3, backoff=2.0))


class Log(Handler):
    name = "log"


class LaxOptions(BaseModel):
    """Options whose author forgot to refuse what is unknown."""

    format: str = "line"

    @field_validator("format")
    @classmethod
    def _buggy(cls, value: str) -> str:
        return {"line": "line", "json": "json"}[value]


class Lax(Handler[LaxOptions]):
    name = "lax"
    Options = LaxOptions


class Lost(Handler):
    name = "lost"
    resources = ("nowhere",)


class TemporalOptions(Options):
    address: str | None = None
    namespace: str = "default"
    timeout: float = 5.0
    api_key: str = ""


class Temporal(Resource[TemporalOptions]):
    name = "temporal"
    Options = TemporalOptions
    environment: ClassVar[Mapping[str, str]] = {"address": "TEMPORAL_HOST", "timeout": "TEMPORAL_TIMEOUT"}


class Rabbit(Connector):
    schemes = ("rabbit", "rabbit+tls")

    def __init__(self, url: str) -> None:
        super().__init__(url)
        if url.endswith(":x"):
            raise UserError(f"{url}: the port is no number")

    @classmethod
    def url_from_environment(cls, environ: Mapping[str, str]) -> tuple[str, str] | None:
        host, password = environ.get("RABBITMQ_HOST"), environ.get("RABBITMQ_PASS", "guest")
        return (f"rabbit://guest:{quote(password, safe='')}@{host}", "RABBITMQ_HOST, RABBITMQ_PASS") if host else None


class Embedded(Connector):
    schemes = ("embedded",)
    default_url = "embedded://.pipeline/events.db"


for connector in (Rabbit, Embedded):  # only their class is of interest here
    connector.__abstractmethods__ = frozenset()  # type: ignore[attr-defined]

CATALOG = Catalog(
    handlers={handler.name: handler for handler in (Audit, Control, Log, Lax, Lost)},
    resources={"temporal": Temporal},
    connectors={scheme: connector for connector in (Rabbit, Embedded) for scheme in connector.schemes},
)

SOUND = """\
[source.admin]
stream = "stream.admin"
group = "control"

[[route]]
match = "admin.#"
stages = ["log"]
"""


class Folder:
    """A folder with one `pipeline.toml`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path / "pipeline.toml"

    def load(self, text: str, catalog: Catalog | None = CATALOG, **environ: str) -> Loaded:
        self.file.write_text(text, encoding="utf-8")
        return load(self.file, environ, catalog)

    def problems(self, text: str, catalog: Catalog | None = CATALOG, **environ: str) -> list[Problem]:
        with pytest.raises(ConfigError) as caught:
            self.load(text, catalog, **environ)
        assert all(problem.file in ("", str(self.file)) for problem in caught.value.problems)
        return list(caught.value.problems)

    def only_problem(self, text: str, catalog: Catalog | None = CATALOG, **environ: str) -> tuple[int | None, str, str]:
        """Line, path and message of the one thing that is wrong."""
        (problem,) = self.problems(text, catalog, **environ)
        return problem.line, problem.path, problem.message

    def warnings(self, text: str, **environ: str) -> list[tuple[int | None, str]]:
        return [(problem.line, problem.message) for problem in self.load(text, **environ).warnings]


def values(loaded: Loaded) -> dict[str, Any]:
    return {value.path: value.value for value in loaded.values}
