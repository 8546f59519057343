"""What the tests of the embedded Temporal share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from pipeline import Unavailable
from pipeline_plugins.temporal import TemporalResource
from pipeline_plugins.temporal.options import TemporalOptions


@asynccontextmanager
async def running(database: Path, **options: Any) -> AsyncIterator[TemporalResource]:
    resource = TemporalResource(TemporalOptions.model_validate({"database": database, **options}))
    try:
        await resource.start()
        yield resource
    finally:
        await resource.stop()


async def is_silent(resource: TemporalResource) -> bool:
    """Whether the server does not answer the resource's probe."""
    try:
        await resource.probe()
    except Unavailable:
        return True
    return False


async def goes_through(resource: TemporalResource, workflow_id: str, request_id: str) -> bool:
    """Whether a signal reaches the workflow; a server that is only just coming up may still refuse it."""
    try:
        await resource.signal(workflow_id, "pause", request_id=request_id)
    except Unavailable:
        return False
    return True
