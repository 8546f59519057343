"""Workflow definitions: found by what triggers them, versioned, and restored as an execution started with them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from pipeline import Reject
from pipeline.config.problems import dotted, near
from pipeline.jobs.contract import INLINE
from pipeline_handlers.governance.events import ON_STATUS_CHANGE, read_change
from pipeline_handlers.governance.options import ANY_ENTITY, WorkflowOptions

if TYPE_CHECKING:
    from pipeline import Event
    from pipeline.expressions import Expression
    from pipeline_handlers.governance.contract import Action
    from pipeline_handlers.governance.events import Change
    from pipeline_handlers.governance.options import GovernanceOptions

__all__ = ["LONGEST_CHAIN", "Definition", "Definitions", "Matches", "PlannedAction"]

LONGEST_CHAIN: Final = 50
"""A chain of more causes than this triggers nothing more."""
_VERSION_DIGITS: Final = 12


@dataclass(frozen=True, slots=True)
class PlannedAction:
    """One action of a definition.

    Attributes:
        position: Its index, from 0.
        use: The action's name.
        action: Its instance, with its options.
        timeout: Seconds that one try of an external action may take.
    """

    position: int
    use: str
    action: Action[Any]
    timeout: float


@dataclass(frozen=True, slots=True, eq=False)
class Definition:
    """One version of a workflow.

    Attributes:
        id: ``name@version``.
        version: The first 12 digits of the SHA-256 of the body's canonical JSON.
        from_: The statuses that it must have had; empty for any.
        to: The statuses that it must have now; empty for any.
        when: The condition on the event, or None.
        queue: Where new executions go; ``inline`` where `use_queue` is false.
        cancel_on: Statuses (and ``deleted``) that cancel what is under way.
        body: As in ``pipeline.toml``, JSON values: what `Definitions.restore` takes.
    """

    id: str
    name: str
    version: str
    entity: str
    trigger: str
    from_: tuple[str, ...]
    to: tuple[str, ...]
    when: Expression | None
    queue: str
    use_queue: bool
    cancel_on: tuple[str, ...]
    actions: tuple[PlannedAction, ...]
    body: Mapping[str, Any]


@dataclass(slots=True)
class Matches:
    """What an event triggers.

    Attributes:
        triggered: Definitions that an execution is to be made of.
        held_back: Those that would be triggered, and why they must not: the chain of causes holds them already, or is
            too long.
    """

    triggered: list[Definition] = field(default_factory=list)
    held_back: list[tuple[Definition, str]] = field(default_factory=list)


class Definitions:
    """All definitions of a stage.

    Attributes:
        current: Those of the configuration, in its order.
        entities: The entities that the stage knows; with ``*`` among them, it takes any.
    """

    def __init__(self, options: GovernanceOptions) -> None:
        self._options = options
        self.current: tuple[Definition, ...] = tuple(_definition(one, options) for one in options.workflows)
        self.entities: frozenset[str] = options.known_entities
        self._by_id = {definition.id: definition for definition in self.current}
        self._by_trigger: dict[tuple[str, str], list[Definition]] = {}
        self._by_cancel: dict[tuple[str, str], list[Definition]] = {}
        for definition in self.current:
            self._by_trigger.setdefault((definition.entity, definition.trigger), []).append(definition)
            for status in definition.cancel_on:
                self._by_cancel.setdefault((definition.entity, status), []).append(definition)

    def knows(self, entity_type: str) -> bool:
        """Whether the stage takes events of this entity."""
        return entity_type in self.entities or ANY_ENTITY in self.entities

    def change_in(self, event: Event[Any]) -> Change:
        """What the event says has changed, of an entity that is known.

        Raises:
            Reject: As `read_change` does; or nothing is known of the entity (kind ``unknown_entity``).
        """
        options = self._options
        change = read_change(event, options.status_field, updates_change_status=options.updates_change_status)
        if not self.knows(change.entity_type):
            raise Reject(
                f"nothing is known of the entity {change.entity_type!r}{near(change.entity_type, self.entities)} "
                "(a workflow that names it, or 'entities' of the stage, makes it known)",
                kind="unknown_entity",
            )
        return change

    def matching(self, change: Change, event: Event[Any]) -> Matches:
        """What the event triggers: entity, trigger, from and to agree, and the condition holds."""
        matches = Matches()
        variables: dict[str, Any] | None = None
        for trigger in change.triggers:
            for definition in self._by_trigger.get((change.entity_type, trigger), ()):
                if trigger == ON_STATUS_CHANGE and not _agrees(definition, change):
                    continue
                if definition.when is not None:
                    variables = event.variables() if variables is None else variables
                    if not definition.when.holds(variables)[0]:
                        continue
                if change.causation and (reason := _held_back(definition, change)):
                    matches.held_back.append((definition, reason))
                else:
                    matches.triggered.append(definition)
        return matches

    def cancelled_by(self, change: Change) -> list[Definition]:
        """The definitions whose executions about this entity end with this change, whatever kind of event tells it."""
        if change.kind == "deleted":
            return self._by_cancel.get((change.entity_type, "deleted"), [])
        if change.kind == "created" or change.new_status is None or change.new_status == change.old_status:
            return []
        return self._by_cancel.get((change.entity_type, change.new_status), [])

    def restore(self, definition_id: str, body: Mapping[str, Any]) -> Definition:
        """The definition of this id, made from its stored body unless it is known already.

        Raises:
            Reject: An action that it uses is not installed any more, or does not take its options any more (kind
                ``lost_definition``); says which, and what to do.
        """
        known = self._by_id.get(definition_id)
        if known is None:
            try:
                options = WorkflowOptions.model_validate(dict(body), context=self._options.context)
            except ValidationError as error:
                faults = "; ".join(f"{dotted(fault['loc'])}: {fault['msg']}" for fault in error.errors())
                raise Reject(
                    f"the definition {definition_id!r} can't be used any more: {faults}", kind="lost_definition"
                ) from None
            known = self._by_id[definition_id] = _definition(options, self._options, definition_id)
        return known

    async def stop(self) -> None:
        """Stop all actions, restored ones included."""
        for definition in self._by_id.values():
            for planned in definition.actions:
                await planned.action.stop()


def _definition(workflow: WorkflowOptions, options: GovernanceOptions, id: str | None = None) -> Definition:  # noqa: A002
    body, queue = workflow.body(), options.queue_of(workflow)
    version = version_of(body) if id is None else id.rpartition("@")[2]
    return Definition(
        id=id or f"{workflow.name}@{version}",
        name=workflow.name,
        version=version,
        entity=workflow.entity,
        trigger=workflow.trigger,
        from_=workflow.from_,
        to=workflow.to,
        when=workflow.when,
        queue=queue,
        use_queue=queue != INLINE,
        cancel_on=workflow.cancel_on,
        actions=tuple(PlannedAction(at, one.use, one.build(), one.seconds) for at, one in enumerate(workflow.actions)),
        body=body,
    )


def version_of(body: Mapping[str, Any]) -> str:
    """The first 12 digits of the SHA-256 of its canonical JSON: keys in order, no blanks."""
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()[:_VERSION_DIGITS]


def _agrees(definition: Definition, change: Change) -> bool:
    return (not definition.from_ or change.old_status in definition.from_) and (
        not definition.to or change.new_status in definition.to
    )


def _held_back(definition: Definition, change: Change) -> str:
    """Why this chain of causes may not trigger the definition; empty where it may."""
    if len(change.causation) > LONGEST_CHAIN:
        return f"its chain of causes is longer than {LONGEST_CHAIN}"
    if any(cause["workflow"] == definition.name and cause["entity"] == change.entity for cause in change.causation):
        return f"it is among its own causes for {change.entity}"
    return ""
