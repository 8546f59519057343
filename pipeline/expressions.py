"""Expressions: CEL over an event, type-checked when the configuration is read, never an exception on an event.

An expression sees ``routing_key``, ``id``, ``data``, ``headers`` and ``time``; in ``finally`` also ``outcome`` and
``error``. A field that is not there, or any other failure, gives no value and a reason: a condition then does not hold,
and a mapping yields null.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from pipeline.cel import FINALLY, VARIABLES, ExpressionError, Uses, bind, compile_program, run, uses

__all__ = [
    "FINALLY",
    "VARIABLES",
    "Condition",
    "Expression",
    "ExpressionError",
    "Expressions",
    "Text",
    "compile_expression",
]

Want = Literal["any", "bool", "string"]
Getter = Callable[[Mapping[str, Any]], tuple[Any, str]]

_TYPES: Final[Mapping[Want, tuple[str, ...] | None]] = {
    "any": None,
    "bool": ("BOOL", "DYN"),
    "string": ("STRING", "DYN", "INT", "UINT", "DOUBLE", "BOOL", "TIMESTAMP", "DURATION", "NULL"),
}
_WANTED: Final[Mapping[Want, str]] = {"bool": "true or false", "string": "a text", "any": "a value"}
_PATH = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)((?:\.[A-Za-z_][A-Za-z0-9_]*)+)")
_NAME = re.compile(r"routing_key|id|outcome|error")
_LITERAL = re.compile(r"'([^'\\\n]*)'|\"([^\"\\\n]*)\"")
_TEST = re.compile(r"([A-Za-z_][A-Za-z0-9_.]*)\s*(==|!=|\bin\b)\s*(.*)")
_LIST = re.compile(rf"\[\s*(?:{_LITERAL.pattern})(?:\s*,\s*(?:{_LITERAL.pattern}))*\s*\]")


class Expression:
    """A compiled expression. Made by `compile_expression`; as a pydantic field type it is made from the text.

    Attributes:
        text: The expression as it was written.
        extra: The variables that it may use besides `VARIABLES`: those of `FINALLY` are texts, all others maps.
        want: What its value is to be: any JSON value, a boolean, or a text (numbers and booleans are written as such).
        type: The type that the checker found (``STRING``, ``BOOL``, ``DYN`` where only the event decides, …).
    """

    __slots__ = ("extra", "program", "quick", "text", "type", "uses", "want")

    def __init__(self, text: str, extra: tuple[str, ...] = (), want: Want = "any") -> None:
        """Raises `ExpressionError`: the syntax is wrong, a name is unknown, or the types don't agree."""
        self.text = text
        self.extra = extra
        self.want = want
        self.program, self.type = compile_program(text, extra)
        wanted = _TYPES[want]
        if wanted is not None and self.type not in wanted:
            raise ExpressionError(f"it gives {self.type.lower()}, and {_WANTED[want]} is wanted", text)
        self.quick: Getter | None = _quick(text.strip(), (*VARIABLES, *extra))
        self.uses: Uses = uses(text, (*VARIABLES, *extra))

    def value(self, variables: Mapping[str, Any]) -> tuple[Any, str]:
        """The value as a JSON value, and why there is none (empty where there is one; null is a value)."""
        if self.quick is not None:
            return self.wanted(*self.quick(variables))
        activation, reason = bind(self.uses, variables, self.extra)
        return self.wanted(*run(self.program, activation)) if activation is not None else (None, reason)

    def holds(self, variables: Mapping[str, Any]) -> tuple[bool, str]:
        """Whether the condition is met, and why not where that is not simply because it is false."""
        value, reason = self.value(variables)
        if value is True or value is False:
            return value, ""
        return False, reason or f"it gives {_kind(value)}, not true or false"

    def wanted(self, value: Any, reason: str) -> tuple[Any, str]:
        """A result in the wanted form."""
        if self.want != "string" or value is None or isinstance(value, str):
            return value, reason
        if isinstance(value, bool):
            return ("true" if value else "false"), ""
        if isinstance(value, int | float):
            return str(value), ""
        return None, f"it gives {_kind(value)}, not a text"

    def __repr__(self) -> str:
        return f"Expression({self.text!r})"

    def __str__(self) -> str:
        return self.text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Expression) and _identity(other) == _identity(self)

    def __hash__(self) -> int:
        return hash(_identity(self))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """A text, compiled for use in any stage; an `Expression` stays what it is."""
        return _Wants("any").__get_pydantic_core_schema__(source, handler)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """A text in the format ``cel``."""
        return {"type": "string", "format": "cel"}


class _Wants:
    """Marks a pydantic field whose text is an expression of this type."""

    def __init__(self, want: Want) -> None:
        self.want = want

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_wrap_validator_function(
            lambda value, text_of: (
                value if isinstance(value, Expression) else Expression(text_of(value), FINALLY, self.want)
            ),
            core_schema.str_schema(strict=True),
            serialization=core_schema.to_string_ser_schema(),
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "string", "format": "cel"}


Condition = Annotated[Expression, _Wants("bool")]
"""A pydantic field type: an expression that gives true or false."""
Text = Annotated[Expression, _Wants("string")]
"""A pydantic field type: an expression that gives a text, a number or a boolean, always written as a text."""


def compile_expression(text: str, *, extra: tuple[str, ...] = (), want: Want = "any") -> Expression:
    """Compile and type-check an expression.

    Args:
        text: CEL, with the functions of its standard and of the strings extension.
        extra: `FINALLY` for an expression that is used in ``finally`` stages; any other name stands for a map.
        want: The type that it must have; one that only the event decides (``dyn``) passes.

    Raises:
        ExpressionError: The syntax is wrong, a name is unknown, or the types don't agree.
    """
    return Expression(text, extra, want)


class Expressions:
    """Several expressions over the same event: its variables are handed to the library once."""

    __slots__ = ("_checked", "_extra", "_quick", "_uses", "by_name")

    def __init__(self, by_name: Mapping[str, Expression | str], *, extra: tuple[str, ...] = FINALLY) -> None:
        """Raises `ExpressionError` for a text that is no expression."""
        self.by_name = {
            name: expression if isinstance(expression, Expression) else Expression(expression, extra)
            for name, expression in by_name.items()
        }
        self._quick = [(name, item, item.quick) for name, item in self.by_name.items() if item.quick is not None]
        self._checked = [(name, item) for name, item in self.by_name.items() if item.quick is None]
        self._extra = tuple(dict.fromkeys(name for _, item in self._checked for name in item.extra))
        self._uses = _union([item.uses for _, item in self._checked])

    def evaluate(self, variables: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
        """All values by name, None where there is none; and the reasons by name, for those only."""
        values: dict[str, Any] = dict.fromkeys(self.by_name)
        reasons: dict[str, str] = {}
        for name, item, quick in self._quick:
            values[name], reasons[name] = item.wanted(*quick(variables))
        if self._checked:
            shared, _ = bind(self._uses, variables, self._extra)
            for name, item in self._checked:
                if shared is None:  # something among all the variables is odd: that must not spoil the others
                    values[name], reasons[name] = item.value(variables)
                else:
                    values[name], reasons[name] = item.wanted(*run(item.program, shared))
        return values, {name: reason for name, reason in reasons.items() if reason}


def _union(all_uses: list[Uses]) -> Uses:
    merged: dict[str, set[str] | None] = {}
    for name, keys in (pair for one in all_uses for pair in one):
        known = merged.setdefault(name, set())
        merged[name] = None if keys is None or known is None else known | set(keys)
    return tuple((name, None if keys is None else tuple(sorted(keys))) for name, keys in merged.items())


def _identity(expression: Expression) -> tuple[str, tuple[str, ...], Want]:
    return expression.text, expression.extra, expression.want


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    return {dict: "an object", list: "a list", str: "a text", bool: "a boolean"}.get(type(value), "a number")


def _quick(text: str, names: tuple[str, ...]) -> Getter | None:
    """A getter for the commonest expressions, which need no library; else None.

    These are text literals, plain paths, and paths that are compared with texts.
    """
    if literal := _LITERAL.fullmatch(text):
        result = (literal[1] or literal[2] or "", "")
        return lambda variables: result
    if test := _TEST.fullmatch(text):
        return _comparison(_quick(test[1], names), test[2], test[3])
    if _NAME.fullmatch(text):
        return lambda variables: _named(variables, text)
    if (path := _PATH.fullmatch(text)) and path[1] in names:
        root, fields = path[1], tuple(path[2].split(".")[1:])
        return lambda variables: _field(variables, root, fields)
    return None


def _comparison(getter: Getter | None, operator: str, operand: str) -> Getter | None:
    """A getter that compares a value with texts: what is no text equals none of them, as in CEL."""
    form = _LIST if operator == "in" else _LITERAL
    if getter is None or not form.fullmatch(operand):
        return None
    texts = tuple(one[1] or one[2] or "" for one in _LITERAL.finditer(operand))
    wanted = operator != "!="

    def compare(variables: Mapping[str, Any]) -> tuple[Any, str]:
        value, reason = getter(variables)
        return (None, reason) if reason else ((value in texts) is wanted, "")

    return compare


def _named(variables: Mapping[str, Any], name: str) -> tuple[Any, str]:
    value = variables.get(name)
    return (None, f"{name} has no value here") if value is None else (str(value), "")


def _field(variables: Mapping[str, Any], root: str, fields: tuple[str, ...]) -> tuple[Any, str]:
    value = variables.get(root)
    for name in fields:
        if type(value) is not dict and not isinstance(value, Mapping):  # the second question is the dearer one
            return None, "a field was asked of what is no object"
        if name not in value:
            return None, f"there is no field {name!r}"
        value = value[name]
    return value, ""
