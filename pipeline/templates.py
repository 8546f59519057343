"""Templates: a text with expressions in it, such as ``{{ data.entity_id }} is published``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pipeline.expressions import Expression, ExpressionError, compile_expression

__all__ = ["Template", "compile_template"]

_HOLE = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)


class Template:
    """A compiled template.

    Attributes:
        text: The template as it was written.
        parts: Its texts and expressions, in order.
    """

    __slots__ = ("parts", "text")

    def __init__(self, text: str, extra: tuple[str, ...] = ()) -> None:
        """Raises `ExpressionError` where an expression is wrong or its braces are not closed."""
        self.text = text
        self.parts: tuple[str | Expression, ...] = tuple(_parts(text, extra))

    def render(self, variables: Mapping[str, Any]) -> tuple[str, str]:
        """The text with each expression's value in its place, and why a place stayed empty (empty where none did)."""
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
