"""TLS to mail servers and webhooks: certificates are verified, by the system's authorities and one's own."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationInfo

__all__ = ["Authority", "tls_context"]


def _beside_the_file(path: Path, info: ValidationInfo) -> Path:
    """Relative to the file that names it, where that is known; it must be there."""
    base = (info.context or {}).get("base")
    path = Path(base) / path if base is not None else path
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    return path


Authority = Annotated[Path, Field(strict=False), AfterValidator(_beside_the_file)]
"""A pydantic field type: a PEM file with certificates of authorities, relative to the file that names it."""


def tls_context(authority: Path | None) -> ssl.SSLContext:
    """A client's context that verifies names and certificates. Reads files: call it in a thread."""
    context = ssl.create_default_context()
    if authority is not None:
        context.load_verify_locations(authority)
    return context
