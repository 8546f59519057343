"""The keys of ``[stage.audit]``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from pipeline.expressions import Condition, Expression, Text
from pipeline.topics import compile_pattern

__all__ = ["AuditOptions", "RowOptions"]


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _patterns(texts: tuple[str, ...]) -> tuple[str, ...]:
    for text in texts:
        compile_pattern(text)  # a PatternError is a ValueError, which pydantic reports at this key
    return texts


Patterns = Annotated[
    tuple[str, ...], BeforeValidator(_listed, json_schema_input_type=str | tuple[str, ...]), AfterValidator(_patterns)
]


class RowOptions(BaseModel):
    """``[[stage.audit.row]]``: how the events that match become a row; every value is an expression."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    match: Annotated[Patterns, Field(min_length=1)] = Field(
        ("#",), description="Routing keys: a topic pattern, or a list."
    )
    when: Condition | None = Field(None, description="Only events that meet this condition.")
    action: Text | None = Field(None, description="What was done; by default the routing key.")
    entity_type: Text | None = Field(None, description="What kind of thing it was done to.")
    entity_id: Text | None = Field(None, description="Which one.")
    user_id: Text | None = Field(None, description="Who did it.")
    metadata: dict[str, Expression] = Field(default_factory=dict, description="More about it, by name.")


class AuditOptions(BaseModel):
    """``[stage.audit]``: which events leave which row."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    row: tuple[RowOptions, ...] = Field((), description="The rows' mappings; the first that matches an event counts.")
    unmatched: Literal["row", "skip"] = Field(
        "row", description="An event that no mapping matches: 'row' leaves one with its routing key, 'skip' none."
    )
    log: bool = Field(False, description="Also log each row, at level info.")
