"""The contract of a resource: what handlers share, such as a client of another system."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic

from pydantic import BaseModel, ConfigDict
from typing_extensions import TypeVar

__all__ = ["NoOptions", "Resource"]


class NoOptions(BaseModel):
    """The options of what takes none."""

    model_config = ConfigDict(extra="forbid", frozen=True)


OptionsT = TypeVar("OptionsT", bound=BaseModel, default=Any)


class Resource(Generic[OptionsT]):
    """Something that handlers share, configured in ``[resource.<name>]`` and opened once per runner.

    Class attributes:
        name: What ``use`` names it by; the table's own name where ``use`` is left out.
        Options: A pydantic model of the table's keys (``extra="forbid"``).
        environment: Option → environment variable that supplies it where the file does not.
    """

    name: ClassVar[str]
    Options: ClassVar[type[BaseModel]] = NoOptions
    environment: ClassVar[Mapping[str, str]] = {}

    def __init__(self, options: OptionsT) -> None:
        self.options = options

    async def start(self) -> None:
        """Make ready without waiting for the other system: connect on first use. Raise what waiting can not mend."""

    async def stop(self) -> None:
        """Let go of everything; called once, also after a failed start."""

    async def probe(self) -> None:
        """Return when the other system answers now; else raise `Unavailable` or a `UserError` that says what to do."""

    def describe(self) -> str:
        """Where it connects to, without secrets, in one line."""
        return self.name

    def hints(self) -> Sequence[str]:
        """Commands and addresses that help to look at the other system, shown when a runner has started."""
        return ()

    def examples(self) -> Mapping[str, Any]:
        """Values for a first event's data, by field: ``{"workflow_id": "sample-workflow"}``."""
        return {}
