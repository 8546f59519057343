"""The contract of a policy: it wraps a call of a handler, and is a call itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from pipeline.errors import ENDINGS, HandlerError, Park, PipelineError, Throttled, text_of

if TYPE_CHECKING:
    from pipeline.events import Event
    from pipeline.handlers import Delivery

__all__ = [
    "Call", "FailedTogether", "Park", "Throttled", "call_others", "key_getter", "results_of", "was_cancelled",
]  # fmt: skip

Call: TypeAlias = "Callable[[Sequence[Delivery]], Awaitable[Sequence[BaseException | None] | None]]"
"""Hands events to a handler, as `pipeline.handlers.Handler.handle_batch` takes them: None when all are done, else for
each event None or what ends its try. What it raises ends the try of every event that it was given."""


class FailedTogether(PipelineError):
    """The result of each event of a batch that failed as a whole: which of them is at fault is not known.

    Attributes:
        error: What the batch raised.
    """

    def __init__(self, error: BaseException) -> None:
        self.error = error
        super().__init__(text_of(error))


async def call_others(
    call: Call, batch: Sequence[Delivery], held: Mapping[int, BaseException]
) -> Sequence[BaseException | None] | None:
    """Hand on those events of a batch that are not held back; what it returns has the order of the whole batch.

    Args:
        call: What the events are handed to.
        batch: The events.
        held: By its place in the batch what each event that is held back gets.

    Raises:
        Exception: What `call` raises, where nothing is held back.
    """
    if not held:
        return await call(batch)
    results = [held.get(place) for place in range(len(batch))]
    places = [place for place in range(len(batch)) if place not in held]
    found = await results_of(call, [batch[place] for place in places]) if places else None
    for place, result in zip(places, found or (), strict=found is not None):
        results[place] = result
    return results


async def results_of(call: Call, batch: Sequence[Delivery]) -> Sequence[BaseException | None] | None:
    """What a call returns, and what it raises as the results of its events."""
    try:
        return await call(batch)
    except asyncio.CancelledError as error:
        if was_cancelled():
            raise
        return [error] * len(batch)
    except HandlerError as error:
        return [error] * len(batch)
    except ENDINGS:
        raise
    except BaseException as error:  # noqa: BLE001 - a handler may raise anything
        return [error if len(batch) == 1 else FailedTogether(error)] * len(batch)


def was_cancelled() -> bool:
    """Whether the current task is being cancelled: then a `asyncio.CancelledError` is no doing of the handler."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def key_getter(text: str) -> Callable[[Event[Any]], str | None]:
    """A function that gives what an expression says of an event; None where it says nothing."""
    from pipeline.expressions import FINALLY, compile_expression  # with CEL, which most pipelines need for nothing else

    expression = compile_expression(text, extra=FINALLY, want="string")
    return lambda event: expression.value(event.variables())[0]
