"""A serverless-style, pluggable event pipeline runner. This is what a plugin's author imports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.errors import PipelineError, Reject, Retry, Skip, Unavailable
from pipeline.events import Event, Outcome
from pipeline.handlers import Context, Delivery, Handler, Setup, handler
from pipeline.hookspecs import hookimpl
from pipeline.resources import NoOptions, Resource

if TYPE_CHECKING:
    from pipeline.runner import Pipeline

__all__ = [
    "Context",
    "Delivery",
    "Event",
    "Handler",
    "NoOptions",
    "Outcome",
    "Pipeline",
    "PipelineError",
    "Reject",
    "Resource",
    "Retry",
    "Setup",
    "Skip",
    "Unavailable",
    "handler",
    "hookimpl",
]


def __getattr__(name: str) -> Any:
    """Import the runner, and the libraries that it needs, only when it is asked for."""
    if name == "Pipeline":
        from pipeline.runner import Pipeline

        return Pipeline
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
