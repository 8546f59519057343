"""``policy = {…}``: what a stage's policies are called in `pipeline.toml`, with their defaults and meanings."""

from __future__ import annotations

import math
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, model_validator

from pipeline.config.fields import UNITS, Names, Seconds, Table
from pipeline.topics import compile_pattern

__all__ = ["CircuitPolicy", "CoalescePolicy", "ConcurrencyPolicy", "Policy", "RateLimit", "RetryPolicy"]

_RATE = re.compile(r"(\d+(?:\.\d+)?)(?:/(s|m|h|d))?")
_PERIODS = (("s", 1.0), ("m", 60.0), ("h", 3600.0), ("d", 86400.0))


def _timeout(value: object) -> object:
    if value is True:
        raise ValueError("write how long a try may take, as in '10s', or false")
    return False if value is None or value == "false" else value


def _number(value: object) -> object:
    if isinstance(value, bool):  # pydantic would take it for a number
        raise ValueError("write how many, as in 20")  # noqa: TRY004 - pydantic reports only these
    return value


def _off(value: object) -> object:
    return None if value is False or value == "false" else value  # what a variable gives is a text


def _per_second(value: object) -> object:
    if not isinstance(value, str):
        return value
    found = _RATE.fullmatch(value)
    if found is None:
        raise ValueError(f"{value!r} is not a rate: write a number and a unit of time, as in '5/s', '300/m' or '10/h'")
    return float(found[1]) / UNITS[found[2] or "s"]


def _rate_text(value: float) -> str:
    """A rate as one writes it: ``5/s``, ``90/m``; in the shortest unit of time that gives a whole number."""
    for unit, period in _PERIODS:
        if math.isclose(value * period, round(value * period), rel_tol=1e-9) and value * period >= 1:
            return f"{round(value * period)}/{unit}"
    return f"{value:g}/s"


_Written = float | Annotated[str, Field(pattern=rf"^{_RATE.pattern}$")]
Rate = Annotated[
    float,
    BeforeValidator(_per_second, json_schema_input_type=_Written),
    Field(gt=0, allow_inf_nan=False),
    PlainSerializer(_rate_text, when_used="json"),
]
"""Events per second; written as ``"5/s"``, ``"300/m"``, ``"10/h"``, or as a number of events per second."""


def _expression(text: str) -> str:
    from pipeline.expressions import FINALLY, compile_expression  # with CEL, which most files need for nothing else

    compile_expression(
        text, extra=FINALLY, want="string"
    )  # an ExpressionError is a ValueError, which pydantic reports at this key
    return text


Key = Annotated[str, AfterValidator(_expression), Field(json_schema_extra={"format": "cel"})]
"""An expression that gives a text; mostly a path, as an ordering key is."""


def _patterns(texts: tuple[str, ...]) -> tuple[str, ...]:
    for text in texts:
        compile_pattern(text)
    return texts


class RetryPolicy(Table):
    """``retry = {…}`` in a stage's policy."""

    attempts: int = Field(5, ge=1, description="How often an event is tried before it is dead; an outage counts none.")
    backoff: Seconds = Field(1.0, description="The wait before the second try; doubled for each further one.")
    max_backoff: Seconds = Field(60.0, description="The longest wait.")
    jitter: float = Field(0.1, ge=0, le=1, description="The part of each wait that is random, 0 to 1.")

    @model_validator(mode="after")
    def _grows(self) -> RetryPolicy:
        if self.max_backoff < self.backoff:
            raise ValueError(
                f"max_backoff ({self.max_backoff:g} s) is shorter than backoff ({self.backoff:g} s): no wait is longer"
            )
        return self


class RateLimit(Table):
    """``rate_limit = {…}`` in a stage's policy."""

    rate: Rate = Field(description="How many events in a unit of time: 5/s, 300/m, 10/h.")
    burst: int | None = Field(
        None, ge=1, description="How many may come at once after a quiet time; by default as many as in a second."
    )
    key: Key | None = Field(
        None, description="An expression such as data.tenant: each of its values has the whole rate to itself."
    )

    @property
    def size(self) -> int:
        """The effective burst."""
        return self.burst or max(1, math.floor(self.rate))

    def __str__(self) -> str:
        return f"{_rate_text(self.rate)} for each {self.key}" if self.key else _rate_text(self.rate)


class ConcurrencyPolicy(Table):
    """``concurrency = {…}`` in a stage's policy."""

    limit: int = Field(100, ge=1, description="How many events of one source the stage handles at once.")
    per_key: int | None = Field(None, ge=1, description="How many of one key; by default as many as there are.")
    key: Key | None = Field(None, description="An expression such as data.tenant; with per_key.")

    @model_validator(mode="after")
    def _both_or_none(self) -> ConcurrencyPolicy:
        if (self.per_key is None) != (self.key is None):
            raise ValueError("per_key needs a key, and key a per_key, as in { per_key = 1, key = 'data.tenant' }")
        if self.per_key is not None and self.per_key > self.limit:
            raise ValueError(f"per_key ({self.per_key}) is greater than limit ({self.limit}), so it limits nothing")
        return self


class CircuitPolicy(Table):
    """``circuit = {…}`` in a stage's policy."""

    ratio: float = Field(0.5, gt=0, le=1, description="The part of the calls that must fail for it to open.")
    window: Annotated[Seconds, Field(gt=0)] = Field(10.0, description="The time over which calls are counted.")
    minimum: int = Field(20, ge=1, description="How many calls there must be in that time.")
    open_for: Annotated[Seconds, Field(gt=0)] = Field(5.0, description="How long it stays open before it is probed.")
    half_open: int = Field(1, ge=1, description="How many probes must succeed, one after the other, to close it.")


class CoalescePolicy(Table):
    """``coalesce = {…}`` in a stage's policy."""

    window: Annotated[Seconds, Field(gt=0)] = Field(description="How long an event waits for a later one of its key.")
    match: Annotated[Names, Field(min_length=1), AfterValidator(_patterns)] = Field(
        description="A topic pattern, or a list: the events that wait, and that replace one another."
    )


def _limits(value: object) -> object:
    if value is False or value in ("false", None):
        return ()
    if value is True:
        raise ValueError("write a rate, as in '5/s', or false")
    if isinstance(value, str | int | float):
        return ({"rate": value},)
    return (value,) if isinstance(value, dict | RateLimit) else value


def _rate_text_or_table(limit: object) -> object:
    return {"rate": limit} if isinstance(limit, str | int | float) and not isinstance(limit, bool) else limit


_RateLimits = Annotated[
    tuple[Annotated[RateLimit, BeforeValidator(_rate_text_or_table)], ...],
    BeforeValidator(
        _limits, json_schema_input_type=Literal[False] | _Written | RateLimit | tuple[RateLimit | _Written, ...]
    ),
]


_Many = Annotated[int, Field(ge=1)]


class Policy(Table):
    """``policy = {…}``: how a stage treats time and failure."""

    timeout: Annotated[Literal[False] | Seconds, BeforeValidator(_timeout)] = Field(
        30.0, description="How long one try may take, of one event or of one batch; false or 0 for no limit."
    )
    retry: RetryPolicy = Field(default_factory=RetryPolicy, description="How failed tries are repeated.")
    concurrency: Annotated[_Many, BeforeValidator(_number, json_schema_input_type=_Many)] | ConcurrencyPolicy = Field(
        100, description="How many events of one source the stage handles at once; as a table also how many of a key."
    )
    rate_limit: _RateLimits = Field(
        (), description="How many events in a unit of time, as in 5/s; a table says of which key; a list means all."
    )
    circuit: Annotated[
        CircuitPolicy | None, BeforeValidator(_off, json_schema_input_type=Literal[False] | CircuitPolicy)
    ] = Field(None, description="When so many calls fail that the stage rests, and its source pauses.")
    coalesce: Annotated[
        CoalescePolicy | None, BeforeValidator(_off, json_schema_input_type=Literal[False] | CoalescePolicy)
    ] = Field(None, description="Which events are filtered where a later one of their key replaces them.")

    @property
    def limit(self) -> int:
        """How many events of one source the stage handles at once."""
        return self.concurrency if isinstance(self.concurrency, int) else self.concurrency.limit

    @property
    def per_key(self) -> ConcurrencyPolicy | None:
        """The limit of events of one key at once; None where there is none."""
        table = self.concurrency
        return table if isinstance(table, ConcurrencyPolicy) and table.per_key is not None else None
