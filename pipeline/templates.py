"""Templates: a text with expressions in it, such as ``{{ data.entity_id }} is published``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from pipeline.expressions import FINALLY, Expression, ExpressionError, compile_expression

__all__ = ["Template", "TemplateText", "compile_template", "template_type"]

_HOLE = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)


class Template:
    """A compiled template.

    Attributes:
        text: The template as it was written.
        parts: Its texts and expressions, in order.
        constant: What it always gives; None where it has expressions.
    """

    __slots__ = ("constant", "parts", "text")

    def __init__(self, text: str, extra: tuple[str, ...] = ()) -> None:
        """Raises `ExpressionError` where an expression is wrong or its braces are not closed."""
        self.text = text
        self.parts: tuple[str | Expression, ...] = tuple(_parts(text, extra))
        texts = [part for part in self.parts if isinstance(part, str)]
        self.constant: str | None = "".join(texts) if len(texts) == len(self.parts) else None

    def render(self, variables: Mapping[str, Any]) -> tuple[str, str]:
        """The text with each expression's value in its place, and why a place stayed empty (empty where none did)."""
        if self.constant is not None:
            return self.constant, ""
        texts: list[str] = []
        reasons: list[str] = []
        for part in self.parts:
            value, reason = (part, "") if isinstance(part, str) else part.value(variables)
            texts.append("" if value is None else value)
            if reason:
                reasons.append(f"{part}: {reason}")
        return "".join(texts), "; ".join(reasons)

    def __repr__(self) -> str:
        return f"Template({self.text!r})"

    def __str__(self) -> str:
        return self.text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Template) and (other.text, other.parts) == (self.text, self.parts)

    def __hash__(self) -> int:
        return hash((self.text, self.parts))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """A text, compiled for use in any stage; a `Template` stays what it is."""
        return _Sees(FINALLY).__get_pydantic_core_schema__(source, handler)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """A text in the format ``template``."""
        return {"type": "string", "format": "template"}


class _Sees:
    """Marks a pydantic field whose text is a template that sees these names besides the event's own."""

    def __init__(self, extra: tuple[str, ...]) -> None:
        self.extra = extra

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_wrap_validator_function(
            lambda value, text_of: value if isinstance(value, Template) else Template(text_of(value), self.extra),
            core_schema.str_schema(strict=True),
            serialization=core_schema.to_string_ser_schema(),
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "string", "format": "template"}


TemplateText = Annotated[Template, _Sees(FINALLY)]
"""A pydantic field type: a text with expressions in it, compiled; a mistake in one is reported at the field's key."""


def template_type(*, extra: tuple[str, ...] = ()) -> Any:
    """What makes a pydantic field type like `TemplateText`, whose expressions see other names than those of `FINALLY`.

    As in ``ActionText = Annotated[Template, template_type(extra=("entity", "execution"))]``.

    Args:
        extra: The names besides the event's own; each stands for a map among the variables of `Template.render`.
    """
    return _Sees(extra)


def compile_template(text: str, *, extra: tuple[str, ...] = ()) -> Template:
    """Compile a template whose ``{{ … }}`` hold expressions. Raises `ExpressionError`."""
    return Template(text, extra)


def _parts(text: str, extra: tuple[str, ...]) -> list[str | Expression]:
    pieces = _HOLE.split(text)
    for literal in pieces[::2]:
        if "{{" in literal or "}}" in literal:
            raise ExpressionError("'{{' and '}}' do not pair", text)
    return [
        compile_expression(piece.strip(), extra=extra, want="string") if index % 2 else piece
        for index, piece in enumerate(pieces)
        if piece or index % 2
    ]
