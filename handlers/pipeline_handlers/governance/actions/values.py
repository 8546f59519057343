"""What templates give: texts that a database takes, of bounded length, and the people that they name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, Field

from pipeline import Reject
from pipeline.ledger.clean import clean_text
from pipeline.templates import Template
from pipeline_handlers.governance.contract import ActionText, Step

__all__ = [
    "LONGEST_LINE", "LONGEST_NAME", "LONGEST_TEXT", "OWNER", "ActionText", "ActionTexts", "FilledText", "filled",
    "line", "listed", "name", "names", "text", "word",
]  # fmt: skip

LONGEST_NAME: Final = 300
"""Characters of a person's name, an address, a status: a longer one is refused, since half of it is another."""
LONGEST_LINE: Final = 500
"""Characters of a title or a subject: a longer one is cut off."""
LONGEST_TEXT: Final = 20_000
"""Characters of a message or a description: a longer one is cut off."""
OWNER: Final = "owner"
"""In the place of a person: whoever the entity's data, else the event's ``new``, names as its ``owner``."""


def filled(template: Template) -> Template:
    """The template, unless it is empty as it is written. Raises ValueError."""
    if not template.text.strip():
        raise ValueError("it must not be empty")
    return template


FilledText = Annotated[ActionText, AfterValidator(filled)]
"""A pydantic field type: a template that is not empty as it is written."""


def listed(value: Any) -> Any:
    """A lone template as a list of one."""
    return [value] if isinstance(value, str | Template) else value


ActionTexts = Annotated[
    tuple[FilledText, ...],
    BeforeValidator(listed, json_schema_input_type=ActionText | tuple[ActionText, ...]),
    Field(min_length=1),
]
"""A pydantic field type: a template, or a list of them."""


def text(step: Step, template: Template, longest: int = LONGEST_TEXT) -> str:
    """The template's text, without what a text column can't hold, cut off where it is too long."""
    found = clean_text(step.text(template)).strip()
    return found if len(found) <= longest else f"{found[: longest - 1]}…"


def line(step: Step, template: Template, longest: int = LONGEST_LINE) -> str:
    """The same in one line: blanks, line breaks and control characters become one blank each."""
    found = step.text(template)
    if not found.isprintable():
        found = "".join(character if character.isprintable() else " " for character in found)
    joined = clean_text(" ".join(found.split()))
    return joined if len(joined) <= longest else f"{joined[: longest - 1]}…"


def word(step: Step, template: Template, what: str) -> str:
    """A text that stands for something, such as a status. Raises `Reject` where it is empty or too long."""
    found = line(step, template, 2 * LONGEST_NAME)
    if not 0 < len(found) <= LONGEST_NAME:
        raise Reject(f"{what} {template.text!r} {'is too long' if found else 'is empty'}", kind="invalid_value")
    return found


def name(step: Step, template: Template, what: str) -> str:
    """The one person that the template names. Raises `Reject` (kind ``nobody``) where that is none, or several."""
    found = _names(step, template)
    if len(found) != 1:
        raise Reject(f"{what} {template.text!r} gives {'no name' if not found else f'{len(found)} names'}", kind=_KIND)
    return found[0]


def names(step: Step, templates: Sequence[Template], what: str, *, all_needed: bool = False) -> tuple[str, ...]:
    """Everybody that the templates name, each once, in order; several in one text are parted by commas.

    Args:
        step: Whose values they see.
        templates: The templates.
        what: What they stand for, for the message.
        all_needed: Whether each of the templates must name somebody; else one of them must.

    Raises:
        Reject: (kind ``nobody``) They don't.
    """
    found: dict[str, None] = {}
    for template in templates:
        some = _names(step, template)
        if all_needed and not some:
            raise Reject(f"{what} {template.text!r} names nobody", kind=_KIND)
        found.update(dict.fromkeys(some))
    if not found:
        raise Reject(f"{what} {', '.join(repr(one.text) for one in templates)} names nobody", kind=_KIND)
    return tuple(found)


_KIND: Final = "nobody"


def _names(step: Step, template: Template) -> list[str]:
    found = _owner(step) if template.text.strip() == OWNER else step.text(template)
    cleaned = [one for part in found.split(",") if (one := clean_text(" ".join(part.split())))]
    for one in cleaned:
        if len(one) > LONGEST_NAME:
            raise Reject(
                f"{template.text!r} gives a name of {len(one)} characters, not {LONGEST_NAME} or less", kind=_KIND
            )
    return cleaned


def _owner(step: Step) -> str:
    data = step.variables.get("data")
    new = data.get("new") if isinstance(data, Mapping) else None
    for fields in (step.entity.data, new):
        owner = fields.get(OWNER) if isinstance(fields, Mapping) else None
        if isinstance(owner, str) and owner.strip():
            return owner
    return ""
