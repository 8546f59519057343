"""Leaving the process: the ordinary way, or at once where native threads would keep the interpreter from ending."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from typing import NoReturn

__all__ = ["FAILED", "FINE", "INTERRUPTED", "MISTAKE", "LeaveNow", "leave"]

FINE = 0
FAILED = 1
"""Something is wrong in what was checked, or failed at run time."""
MISTAKE = 2
"""A user's mistake: a bad file, an unknown option, a refusal."""
INTERRUPTED = 130


class LeaveNow(SystemExit):
    """Ends the command like `SystemExit`, and the process without tearing the interpreter down.

    For commands that opened resources: a client with native threads (Temporal's, say) can hang an ordinary exit.
    """

    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__(status)


def leave(status: int) -> NoReturn:
    """Flush what was written, and end the process at once."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # whoever read it is gone
            stream.flush()
    os._exit(status)
