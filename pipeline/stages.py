"""Stages: a handler with its options, policy and condition, made ready to be called."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from pipeline.config.models import STAGES, Policy
from pipeline.errors import Reject
from pipeline.events import Event
from pipeline.handlers import Delivery, Handler, Setup
from pipeline.misfits import misfit
from pipeline.policies.circuit import Circuits
from pipeline.topics import compile_pattern

if TYPE_CHECKING:
    from pipeline.expressions import Expression
    from pipeline.ledger.database import Database

__all__ = ["Stage"]

_KEYS_REMEMBERED = 10_000


class Stage:
    """One stage of one source: the handler's instance, and what the engine does around it.

    Args:
        name: The stage's name.
        handler: A fresh instance of its handler, with validated options.
        policy: The effective policy; the rate limits that the handler keeps itself are left out of `Stage.policy`.
        when: Its condition, or None.
        is_async: Whether it runs on a worker.
        queue: The queue of its jobs, where it does.
        circuits: The process's circuits; without them it has one of its own, where its policy says so.
    """

    def __init__(
        self,
        name: str,
        handler: Handler[Any],
        policy: Policy,
        when: Expression | None = None,
        *,
        is_async: bool = False,
        queue: str = STAGES,
        circuits: Circuits | None = None,
    ) -> None:
        self.name = name
        self.handler = handler
        kept = handler.take_rate_limits(policy.rate_limit)
        self.policy = policy if kept == policy.rate_limit else policy.model_copy(update={"rate_limit": kept})
        self.when = when
        self.is_async = is_async
        self.queue = queue
        self.resources = type(handler).needs(handler.options)
        circuit = self.policy.circuit
        self.circuit = (circuits or Circuits()).of(circuit, self.dependency) if circuit is not None else None
        self.takes_batches = type(handler).handle_batch is not Handler.handle_batch
        self.max_batch = handler.max_batch
        self._models = [(compile_pattern(text), model) for text, model in handler.models.items()]
        self._model_by_key: dict[str, type[BaseModel] | None] = {}
        self.validates = bool(self._models)

    @property
    def dependency(self) -> str:
        """What counts as down while its circuit is open: the stage's first resource, else the stage itself."""
        return self.resources[0] if self.resources else f"stage {self.name}"

    async def start(
        self,
        pipeline: str,
        resources: Mapping[str, Any],
        *,
        database: Database | None = None,
        extensions: Mapping[str, Sequence[Any]] = MappingProxyType({}),
        use_queue: bool = True,
    ) -> None:
        """Start the handler; the arguments are as in `Setup`."""
        log = logging.getLogger(f"pipeline.stage.{self.name}")
        await self.handler.start(Setup(self.name, pipeline, resources, log, database, extensions, use_queue))

    async def stop(self) -> None:
        """Stop the handler."""
        await self.handler.stop()

    async def call(self, deliveries: Sequence[Delivery]) -> Sequence[BaseException | None] | None:
        """Hand events to the handler, as `Handler.handle_batch` does; one that takes no batches is given one event.

        Raises:
            TypeError: The handler returned another number of results than it was given events.
        """
        handler = self.handler
        if not self.takes_batches:
            await handler.handle(*deliveries[0])
            return None
        errors = await handler.handle_batch(deliveries)
        if errors is not None and len(errors) != len(deliveries):
            raise TypeError(
                f"handle_batch of {handler.name} returned {len(errors)} results for {len(deliveries)} events"
            )
        return errors

    def validated(self, event: Event[Any]) -> Event[Any]:
        """The event with its data as the model that the handler declares for its routing key.

        Raises:
            Reject: The data does not fit the model (kind ``invalid_data``).
        """
        model = self._model_for(event.routing_key)
        if model is None:
            return event
        try:
            return event.with_model(model.model_validate(event.data))
        except ValidationError as error:
            raise Reject(misfit(error, model.__name__), kind="invalid_data") from None

    def _model_for(self, routing_key: str) -> type[BaseModel] | None:
        try:
            return self._model_by_key[routing_key]
        except KeyError:
            pass
        if len(self._model_by_key) >= _KEYS_REMEMBERED:
            self._model_by_key.clear()
        found = next((model for pattern, model in self._models if pattern.matches(routing_key)), None)
        self._model_by_key[routing_key] = found
        return found
