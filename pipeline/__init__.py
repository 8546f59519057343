"""A serverless-style, pluggable event pipeline runner. This is what a plugin's author imports."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.errors import PipelineError, Reject, Retry, Skip, Throttled, Unavailable
    from pipeline.events import Event, Outcome
    from pipeline.handlers import Context, Delivery, Handler, Setup, handler
    from pipeline.hookspecs import hookimpl
    from pipeline.jobs.contract import Job, NewJob, Work
    from pipeline.ledger.units import Row
    from pipeline.resources import NoOptions, Resource
    from pipeline.runner import Pipeline
    from pipeline.worker import Worker

__all__ = [
    "Context",
    "Delivery",
    "Event",
    "Handler",
    "Job",
    "NewJob",
    "NoOptions",
    "Outcome",
    "Pipeline",
    "PipelineError",
    "Reject",
    "Resource",
    "Retry",
    "Row",
    "Setup",
    "Skip",
    "Throttled",
    "Unavailable",
    "Work",
    "Worker",
    "handler",
    "hookimpl",
]

_HOMES = {
    "pipeline.errors": ("PipelineError", "Reject", "Retry", "Skip", "Throttled", "Unavailable"),
    "pipeline.events": ("Event", "Outcome"),
    "pipeline.handlers": ("Context", "Delivery", "Handler", "Setup", "handler"),
    "pipeline.hookspecs": ("hookimpl",),
    "pipeline.jobs.contract": ("Job", "NewJob", "Work"),
    "pipeline.ledger.units": ("Row",),
    "pipeline.resources": ("NoOptions", "Resource"),
    "pipeline.runner": ("Pipeline",),
    "pipeline.worker": ("Worker",),
}
"""Where each name lives: imported when it is asked for, so that ``pipeline --help`` pays for none of it."""


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    for module, names in _HOMES.items():
        if name in names:
            value = globals()[name] = getattr(import_module(module), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
