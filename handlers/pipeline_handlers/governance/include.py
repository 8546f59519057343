"""Files with more workflows, which ``include`` names: read and checked as ``pipeline.toml`` itself is."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, PlainValidator, ValidationError, ValidationInfo

from pipeline.config.document import Document, read
from pipeline.config.environment import Environment
from pipeline.errors import ConfigError
from pipeline_handlers.governance.workflows import NotEmpty, WorkflowOptions

__all__ = ["Include", "IncludeText", "Included", "included"]

_WORKFLOW: Final = "workflow"


class WorkflowFile(BaseModel):
    """A file with workflows: nothing but ``[[workflow]]`` tables."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    workflow: Annotated[tuple[WorkflowOptions, ...], NotEmpty] = Field(description="The workflows' definitions.")


@dataclass(frozen=True, slots=True)
class Included:
    """A workflow that stands in a file of its own.

    Attributes:
        options: The workflow.
        file: The file, resolved.
        place: Where it stands, for people: ``workflows/policy.toml:3``.
    """

    options: WorkflowOptions
    file: Path
    place: str


@dataclass(frozen=True, slots=True)
class Include:
    """One entry of ``include``: a path, or a pattern with ``*``, ``?`` or ``**``, and what stands in its files."""

    pattern: str
    workflows: tuple[Included, ...]


def included(includes: Sequence[Include]) -> Iterator[Included]:
    """All workflows, in order; those of a file that several entries name only once."""
    before: set[Path] = set()
    for include in includes:
        yield from (one for one in include.workflows if one.file not in before)
        before |= {one.file for one in include.workflows}


def _read(pattern: object, info: ValidationInfo) -> Include:
    if isinstance(pattern, Include):
        return pattern
    if not isinstance(pattern, str) or not pattern:
        raise ValueError("it must be a path or a pattern, in quotes")
    context = info.context or {}
    workflows: list[Included] = []
    wrong: list[str] = []
    for path in _matching_files(pattern, Path(context.get("base", ""))):
        try:
            workflows += _workflows_in(path, context)
        except ConfigError as error:
            wrong += map(str, error.problems)
    if wrong:
        raise ValueError("\n  ".join(wrong))
    return Include(pattern, tuple(workflows))


IncludeText = Annotated[
    Include,
    PlainValidator(_read, json_schema_input_type=str),
    PlainSerializer(lambda include: include.pattern, return_type=str),
]
"""A pydantic field type: the files are found and read when it is validated, and what is wrong in them is told."""


def _matching_files(pattern: str, base: Path) -> list[Path]:
    """The files that a path or a pattern with ``*``, ``?`` or ``**`` names, in order; relative ones lie below `base`.

    Raises:
        ValueError: There is none.
    """
    names = glob.glob(pattern, root_dir=base, recursive=True)  # noqa: PTH207 - Path.glob takes no absolute pattern
    found = sorted(base / name for name in names)
    files = [path for path in found if path.is_file()]
    if not files:
        kind = "no file matches" if glob.has_magic(pattern) else "there is no file"
        raise ValueError(f"{kind} {str(base / pattern)!r}: paths are relative to the pipeline's file")
    return files


def _workflows_in(path: Path, context: Mapping[str, Any]) -> list[Included]:
    """The workflows in one file.

    Args:
        path: The file.
        context: What the validators of the stage's options were given.

    Raises:
        ConfigError: It can't be read, is no TOML, or something in it is wrong: every problem with line and key.
    """
    document = read(path, Environment(context.get("environ", os.environ)))
    problems = document.problems
    try:
        parsed = WorkflowFile.model_validate(document.raw, context=dict(context))
    except ValidationError as error:
        problems.validation(error, WorkflowFile, document.raw, ())
        parsed = None
    if parsed is None or problems.errors:
        raise ConfigError(problems.in_order(problems.errors))
    file = path.resolve()
    return [Included(options, file, _place(document, index)) for index, options in enumerate(parsed.workflow)]


def _place(document: Document, index: int) -> str:
    return f"{document.file}:{document.problems.positions.line((_WORKFLOW, index, 'name'))}"
