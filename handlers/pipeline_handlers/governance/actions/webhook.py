"""Webhooks: a signed POST with an idempotency key, and what its answer means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import orjson
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from pipeline import Reject, Retry
from pipeline.config.models import Seconds
from pipeline.ledger.clean import clean_text
from pipeline.signing import signature, signing_key
from pipeline_handlers.governance.actions.ssrf import Allowed
from pipeline_handlers.governance.actions.targets import target_of
from pipeline_handlers.governance.actions.tls import Authority

if TYPE_CHECKING:
    from pipeline_handlers.governance.actions.calls import Answer, Caller

__all__ = ["WebhookOptions", "post", "sign"]

_TRY_AGAIN: Final = frozenset({408, 425, 429})
_EXCERPT: Final = 300
_LONGEST_WAIT: Final = 3_600.0
"""Seconds: a receiver may ask for no longer a wait."""


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str | SecretStr) else value


def _usable(secret: SecretStr) -> SecretStr:
    if not signing_key(secret.get_secret_value()):
        raise ValueError("the secret is empty")
    return secret


Secrets = Annotated[
    tuple[Annotated[SecretStr, AfterValidator(_usable)], ...],
    BeforeValidator(_listed, json_schema_input_type=str | tuple[str, ...]),
]


class WebhookOptions(BaseModel):
    """``[stage.governance.webhook]``: how webhooks are signed, and where they may go."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    secret: Secrets = Field(
        (), description="What signs them, 'whsec_…' or a plain text; a list while receivers change from one to another."
    )
    allow: Allowed = Field(
        (), description="Hosts, addresses and networks that may be called although they are not public."
    )  # fmt: skip
    allow_http: bool = Field(False, description="Whether URLs may begin with http://, too.")
    ca: Authority | None = Field(None, description="A PEM file with authorities to trust besides the system's.")
    timeout: Seconds = Field(10.0, gt=0, description="How long one call may take, from looking up its host on.")


def sign(secrets: Sequence[SecretStr], key: str, timestamp: int, body: bytes) -> str:
    """The header ``webhook-signature``: a signature for each secret, as standardwebhooks.com says."""
    return " ".join(signature(secret.get_secret_value(), key, timestamp, body) for secret in secrets)


async def post(
    caller: Caller, options: WebhookOptions, url: str, key: str, payload: Mapping[str, Any], now: datetime
) -> int:
    """Post a payload as JSON; returns the status, 200 to 299.

    Args:
        caller: Makes the call.
        options: The secrets, and whether http will do.
        url: Where to.
        key: The idempotency key: also the message's id for the signature.
        payload: JSON values.
        now: The time of this try.

    Raises:
        Reject: The URL can't or must not be called, or the receiver refuses the message (4xx, or a redirect).
        Retry: The receiver can't be reached, or can't take it now (5xx, 408, 425, 429).
    """
    target = target_of(url, allow_http=options.allow_http)
    body, timestamp = orjson.dumps(payload), int(now.timestamp())
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "pipeline-governance",
        "Idempotency-Key": key,
        "webhook-id": key,
        "webhook-timestamp": str(timestamp),
    }
    if options.secret:
        headers["webhook-signature"] = sign(options.secret, key, timestamp, body)
    try:
        answer = await caller.post(target, headers, body)
    except TimeoutError:
        raise Retry(f"{target.authority} did not answer within {options.timeout:g} s") from None
    except OSError as error:
        raise Retry(f"{target.authority} can't be reached: {error}") from None
    return _judged(answer, target.authority, now)


def _judged(answer: Answer, host: str, now: datetime) -> int:
    if 200 <= answer.status < 300:
        return answer.status
    said = f"{host} answered {answer.status}"
    if answer.status >= 500 or answer.status in _TRY_AGAIN:
        raise Retry(said, after=_wait(answer.retry_after, now))
    if 300 <= answer.status < 400:
        raise Reject(f"{said}: redirects are not followed, so name the final URL", kind="webhook_refused")
    excerpt = " ".join(clean_text(answer.body[: 4 * _EXCERPT].decode(errors="replace")).split())[:_EXCERPT]
    raise Reject(f"{said}: {excerpt}" if excerpt else said, kind="webhook_refused")


def _wait(text: str, now: datetime) -> float | None:
    """Seconds that ``Retry-After`` asks for (RFC 9110, 10.2.3: a number or a date); None where it asks for none."""
    text = text.strip()
    if text.isascii() and text.isdigit():
        return min(float(text), _LONGEST_WAIT)
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return min(max((at - now).total_seconds(), 0.0), _LONGEST_WAIT)
