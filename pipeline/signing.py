"""Signatures of webhooks, as standardwebhooks.com describes them."""

from __future__ import annotations

import base64
import hmac
from typing import Final

__all__ = ["signature", "signing_key"]

_PREFIX: Final = "whsec_"


def signing_key(secret: str) -> bytes:
    """The bytes that sign: of ``whsec_…`` what its base64 stands for, else the text itself.

    Raises:
        ValueError: What follows ``whsec_`` is no base64.
    """
    if not secret.startswith(_PREFIX):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except ValueError:
        raise ValueError("what follows 'whsec_' is no base64") from None


def signature(secret: str, id_: str, timestamp: int, body: bytes) -> str:
    """One signature of the header ``webhook-signature``; several are separated by spaces.

    Args:
        secret: What signs, as `signing_key` takes it.
        id_: The header ``webhook-id``.
        timestamp: The header ``webhook-timestamp``, in seconds since 1970 (UTC).
        body: The body.

    Raises:
        ValueError: As `signing_key`.
    """
    signed = b".".join((id_.encode(), str(timestamp).encode(), body))
    return f"v1,{base64.b64encode(hmac.digest(signing_key(secret), signed, 'sha256')).decode()}"
