"""Visibility queries with values of the event in them, which can't become anything else than values."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from pipeline import Reject
from pipeline.expressions import FINALLY, Expression, ExpressionError, compile_expression
from pipeline.templates import compile_template

__all__ = ["QueryTemplate"]

_UNSAFE = re.compile(r"""['"`\\\x00-\x1f\x7f]""")
_QUOTES = "'\"`"


@dataclass(frozen=True, slots=True)
class _Place:
    """A place for a value.

    Attributes:
        expression: What gives the value.
        is_quoted: Whether it stands within quotes.
    """

    expression: Expression
    is_quoted: bool


class QueryTemplate:
    """A query such as ``WorkflowType = 'Enrichment' AND BomId = '{{ data.bom_id }}'``.

    A value is always one literal. How quotes are escaped differs between Temporal's visibility stores, so a value
    with quotes, backslashes or control characters is refused rather than escaped. A value that the event lacks is
    refused, too: without it the query would mean something else.

    Attributes:
        text: The template as it was written.
    """

    __slots__ = ("_parts", "text")

    def __init__(self, text: str) -> None:
        """Raises `ExpressionError` where an expression is wrong, or the quotes or braces don't pair."""
        self.text = text
        self._parts: list[str | _Place] = []
        quote = ""
        for part in compile_template(text, extra=FINALLY).parts:
            if isinstance(part, str):
                quote = _quote_after(part, quote)
                self._parts.append(part)
            elif quote == "`":
                raise ExpressionError("a name within `…` can't be filled in, only a value", text)
            else:
                self._parts.append(_Place(compile_expression(part.text, extra=FINALLY), bool(quote)))
        if quote:
            raise ExpressionError(f"the quote {quote} is not closed", text)
        if not text.strip():
            raise ExpressionError("the query is empty", text)

    def render(self, variables: Mapping[str, Any]) -> str:
        """The query for one event. Raises `Reject` for a value that is missing, or can't be put into a query."""
        return "".join(part if isinstance(part, str) else _literal(part, variables) for part in self._parts)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"QueryTemplate({self.text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, QueryTemplate) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """A text, compiled; a `QueryTemplate` stays what it is."""
        return core_schema.no_info_wrap_validator_function(
            lambda value, text_of: value if isinstance(value, cls) else cls(text_of(value)),
            core_schema.str_schema(strict=True),
            serialization=core_schema.to_string_ser_schema(),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """A text in the format ``template``."""
        return {"type": "string", "format": "template"}


def _quote_after(text: str, quote: str) -> str:
    """The quote that is open after a piece of the template, given the one that was open before it."""
    escaped = False
    for character in text:
        if escaped:
            escaped = False
        elif quote and character == "\\":
            escaped = True
        elif quote:
            quote = "" if character == quote else quote
        elif character in _QUOTES:
            quote = character
    return quote


def _literal(place: _Place, variables: Mapping[str, Any]) -> str:
    value, reason = place.expression.value(variables)
    where = f"no query: {place.expression.text}"
    if reason or value is None or value == "":
        raise Reject(f"{where}: {reason or ('it is null' if value is None else 'it is empty')}", kind="invalid_data")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return str(value)
    if not isinstance(value, str):
        raise Reject(f"{where}: it is {value!r:.80}, neither a text nor a number", kind="invalid_data")
    if _UNSAFE.search(value):
        raise Reject(
            f"{where}: {value!r:.80} has a quote, a backslash or a control character, which a query can't hold",
            kind="invalid_data",
        )
    return value if place.is_quoted else f"'{value}'"
