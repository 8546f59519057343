"""The adapter to the CEL library: one environment, messages that people understand, JSON values in and out."""

from __future__ import annotations

import base64
import difflib
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from cel_expr_python import cel

__all__ = ["FINALLY", "VARIABLES", "ExpressionError", "bind", "compile_program", "run", "uses"]

VARIABLES: Final = ("routing_key", "id", "data", "headers", "time")
"""What every expression sees."""
FINALLY: Final = ("outcome", "error")
"""What an expression in a ``finally`` stage sees besides: what became of the route's stages, and why."""

Uses = tuple[tuple[str, tuple[str, ...] | None], ...]
"""Variables that an expression reads; for the maps among them the keys that it reads, None for all of the map."""

_SCALARS: Final = ("routing_key", "id", "time", *FINALLY)
"""All others are maps: ``data``, ``headers``, and whatever a plugin adds for its own expressions."""
_INT_MIN, _UINT_MAX = -(2**63), 2**64 - 1


class ExpressionError(ValueError):
    """The text is no expression, or not of the wanted type.

    Attributes:
        message: What is wrong.
        text: The expression.
        column: Where, in characters from 1; None for the expression as a whole.
    """

    def __init__(self, message: str, text: str, column: int | None = None) -> None:
        self.message = message
        self.text = text
        self.column = column
        super().__init__(f"{message} (column {column} of {text!r})" if column else f"{message} ({text!r})")


@lru_cache(maxsize=8)
def environment(extra: tuple[str, ...]) -> cel.Env:
    """The library's environment: the variables, and the string functions of the standard extension.

    Extra names that are not of `FINALLY` stand for maps.
    """
    from cel_expr_python import cel
    from cel_expr_python.ext import ext_strings

    kind, json_map = cel.Type, cel.Type.Map(cel.Type.STRING, cel.Type.DYN)
    variables = {name: kind.STRING if name in _SCALARS else json_map for name in (*VARIABLES, *extra)}
    return cel.NewEnv(variables=variables | {"time": kind.TIMESTAMP}, extensions=[ext_strings.ExtStrings()])


def compile_program(text: str, extra: tuple[str, ...]) -> tuple[cel.Expression, str]:
    """The checked program of an expression, and the name of its type (``BOOL``, ``DYN``, ``LIST<INT>``).

    Raises:
        ExpressionError: Its syntax is wrong, a name is unknown, or its types don't agree.
    """
    if not text.strip():
        raise ExpressionError("the expression is empty", text)
    try:
        program = environment(extra).compile(text)
    except (RuntimeError, ValueError) as error:
        raise _readable(str(error), text, extra) from None
    return program, program.return_type().name()


def run(program: cel.Expression, activation: cel.Activation) -> tuple[Any, str]:
    """The program's value as a JSON value, and why there is none (empty where there is one)."""
    try:
        result = program.eval(activation=activation)
        value = result.plain_value()
        # The library returns an error as its text, "CODE: message"; asking for the type is the dearer question.
        if type(value) is str and ": " in value and result.type().name() == "ERROR":
            return None, _reason(value)
        return _json(value), ""
    except (RuntimeError, ValueError, TypeError, OverflowError) as error:
        return None, _reason(str(error))


def bind(needed: Uses, variables: Mapping[str, Any], extra: tuple[str, ...]) -> tuple[cel.Activation | None, str]:
    """The variables for the library, only those that are needed; or why they can't be had.

    The library converts a map as a whole, so the keys that no expression reads are left out: they cost time, and one
    odd value among them would spoil every expression.
    """
    bound: dict[str, Any] = {}
    for name, keys in needed:
        value = variables.get(name)
        if value is None:
            continue
        if name not in _SCALARS:
            value = dict(value) if keys is None else {key: value[key] for key in keys if key in value}
            if defect := _defect(value):
                return None, f"{name} {defect}"
        elif type(value) is not str and isinstance(value, str):
            value = str(value)
        bound[name] = value
    try:
        return environment(extra).Activation(bound), ""
    except (RuntimeError, ValueError, TypeError, OverflowError) as error:
        return None, _reason(str(error))


_TOKEN = re.compile(
    r"""(?P<skip>\s+|//[^\n]*)
    |(?P<string>[rRbB]{0,2}(?:'{3}.*?'{3}|"{3}.*?"{3}|'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*"))
    |(?P<name>[A-Za-z_][A-Za-z0-9_]*|`[^`]*`)|(?P<number>[0-9][A-Za-z0-9_]*(?:\.[0-9]\w*)?)|(?P<sign>.)""",
    re.VERBOSE | re.DOTALL,
)


def uses(text: str, names: tuple[str, ...]) -> Uses:
    """Which variables a valid expression reads, and which of their keys; rather too many than too few."""
    tokens = [(m.lastgroup, m.group()) for m in _TOKEN.finditer(text) if m.lastgroup != "skip"] + [("", "")] * 3
    found: dict[str, set[str] | None] = {}
    for index, (kind, token) in enumerate(tokens):
        if kind != "name" or token not in names or _is_field(tokens, index):
            continue
        key = _key_after(tokens[index + 1 : index + 4]) if token not in _SCALARS else None
        known = found.setdefault(token, set())
        found[token] = None if key is None or known is None else known | {key}
    return tuple((name, None if keys is None else tuple(sorted(keys))) for name, keys in found.items())


def _is_field(tokens: list[tuple[str | None, str]], index: int) -> bool:
    """Whether the name stands behind ``value.``; a dot at the start of a name means the outermost scope."""
    if index < 2 or tokens[index - 1][1] != ".":
        return False
    kind, token = tokens[index - 2]
    return kind in ("name", "string") or token in (")", "]", "}")


def _key_after(following: list[tuple[str | None, str]]) -> str | None:
    """The key in ``.key`` or ``['key']``; None where something else follows."""
    (_, first), (kind, second), (_, third) = following
    if first == "." and kind == "name" and not second.startswith("`") and third != "(":
        return second
    if first == "[" and kind == "string" and third == "]" and second[0] in "'\"" and "\\" not in second:
        return second.strip(second[0])
    return None


def _defect(value: Any) -> str:
    """What the library would cut off or refuse, in words; empty where it takes the value as it is.

    Without recursion, since an event may be nested deeper than Python's stack.
    """
    pending = [value]
    while pending:
        value = pending.pop()
        kind = type(value)
        if kind is dict:
            pending.extend(value.values())
            pending.extend(value)
        elif kind is list:
            pending.extend(value)
        elif kind is str:
            if "\0" in value:
                return "holds a NUL character, which expressions can't read"
        elif kind is int and not _INT_MIN <= value <= _UINT_MAX:
            return f"holds {value}, which has more than 64 bits"
    return ""


def _json(value: Any) -> Any:
    """A result as a JSON value; times and durations as CEL's own ``string()`` writes them, bytes as base64."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"the result is {value}, which JSON can't hold")
        return value
    if isinstance(value, dict):
        return {_text(key): _json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_json(item) for item in value]
    return _text(value)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, timedelta):
        return f"{value.total_seconds():.15g}s"
    if isinstance(value, bytes | bytearray):
        return base64.b64encode(value).decode()
    name = getattr(value, "name", None)
    return str(name()) if callable(name) else str(value)


def _operator(name: str) -> str:
    return name.strip("_@").replace("_", " ") or name


def _readable(message: str, text: str, extra: tuple[str, ...]) -> ExpressionError:
    """The library's first complaint as an error of ours."""
    found = re.search(r"ERROR: <input>:(\d+):(\d+): ([^\n]*)", message)
    if not found:
        return ExpressionError(message, text)
    line, column, said = int(found[1]), int(found[2]), found[3].removesuffix("[INVALID_ARGUMENT]").strip()
    names = (*VARIABLES, *extra)
    if unknown := re.match(r"undeclared reference to '([^']*)'", said):
        said = _unknown(unknown[1], names)
    elif overload := re.match(r"found no matching overload for '([^']*)' applied to '\((.*)\)'", said):
        said = f"{_operator(overload[1])!r} does not take ({overload[2]})"
    elif said.startswith("Syntax error: mismatched input '<EOF>'"):
        said = "the expression ends too early"
    else:
        said = re.sub(r" expecting \{.*", "", said).replace("Syntax error", "syntax error")
    return ExpressionError(said if line == 1 else f"line {line}: {said}", text, column)


def _unknown(name: str, names: tuple[str, ...]) -> str:
    root = name.split(".", maxsplit=1)[0]
    if root in FINALLY and root not in names:
        return f"{root!r} is known in 'finally' stages only"
    near = difflib.get_close_matches(root, names, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}, and the fields of data and headers"
    return f"unknown name {name!r}: {hint}"


def _reason(message: str) -> str:
    """Why an evaluation gave no value, in few words."""
    said = re.sub(r"^[A-Z_]+: ", "", message)
    if missing := re.match(r'Key not found in map : "?(.*?)"?$', said):
        return f"there is no field {missing[1]!r}"
    if unset := re.match(r'No value with name "(\w+)"', said):
        return f"{unset[1]} has no value here"
    if overload := re.match(r"No matching overloads found : ([^(]*)(\(.*\))?", said):
        return f"{_operator(overload[1])!r} does not take {overload[2] or 'these values'}"
    if "non-message type" in said:
        return "a field was asked of what is no object"
    return said[:1].lower() + said[1:].rstrip(".")
