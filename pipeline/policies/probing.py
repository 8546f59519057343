"""Probing: whether a resource answers now, however its probe fails."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from pipeline.errors import Unavailable, text_of

__all__ = ["why_down"]

_TIMEOUT: Final = 5.0


async def why_down(resource: Any) -> str | None:
    """Why a resource does not answer its probe now; None where it does, or where there is no resource to ask."""
    if resource is None:
        return None
    try:
        async with asyncio.timeout(_TIMEOUT):
            await resource.probe()
    except TimeoutError:
        return f"no answer within {_TIMEOUT:g} s"
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        return "its probe was cancelled from within"  # a client's own doing; it must not end whoever asked
    except Exception as error:  # noqa: BLE001 - whatever a probe raises says that it failed
        return error.reason if isinstance(error, Unavailable) else text_of(error)
    return None
