"""URLs without their secrets, for people and logs."""

from __future__ import annotations

import re

__all__ = ["redact"]

# Greedy up to the last '@': a password that was not percent-encoded may hold one, and nothing of it may show.
_PASSWORD = re.compile(r"(?P<start>[a-zA-Z][a-zA-Z0-9+.-]*://[^:/@?#\s]*):\S*@")
_PARAMETER = re.compile(r"(?i)(?P<start>[?&;][^=&;\s]*(?:pass|pwd|secret|token|key)[^=&;\s]*=)[^&;\s]*")


def redact(text: str) -> str:
    """The same text with ``***`` in place of the passwords of its URLs, and of parameters that look secret."""
    return _PARAMETER.sub(r"\g<start>***", _PASSWORD.sub(r"\g<start>:***@", text))
