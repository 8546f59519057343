"""``on_unhealthy = {…}`` in ``[pipeline]``: whom to tell when a process has been unhealthy for a while."""

from __future__ import annotations

from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, SecretStr, model_validator

from pipeline.config.fields import Seconds, Table
from pipeline.signing import signing_key
from pipeline.webhook import missing_package

__all__ = ["AlarmTable"]


def _url(value: SecretStr) -> SecretStr:
    try:
        parts = urlsplit(value.get_secret_value())
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ValueError("write an address that begins with https:// (or http://)")
    return value


def _secret(value: SecretStr) -> SecretStr:
    if not signing_key(value.get_secret_value()):
        raise ValueError("the secret is empty")
    return value


def _repeat(value: object) -> object:
    if value is True:
        raise ValueError("write after how long it is told again, as in '1h', or false")
    return False if value == "false" else value  # what a variable gives is a text


class AlarmTable(Table):
    """``on_unhealthy = {…}``."""

    model_config = ConfigDict(hide_input_in_errors=True)

    webhook: Annotated[SecretStr, AfterValidator(_url)] = Field(
        description="The URL that a JSON message is posted to; shown nowhere, as it may carry a token."
    )
    hold_off: Seconds = Field(
        30.0, description="How long it must have been unhealthy before that is told, and healthy again likewise."
    )
    repeat: Annotated[Literal[False] | Seconds, BeforeValidator(_repeat)] = Field(
        False, description="After how long it is told again while nothing changes; false for once only."
    )
    secret: Annotated[SecretStr, AfterValidator(_secret)] | None = Field(
        None, description="What signs the messages, 'whsec_…' or a plain text; without it they are not signed."
    )
    timeout: Seconds = Field(10.0, gt=0, description="How long one call may take before it is tried again.")

    @model_validator(mode="after")
    def _can_be_sent(self) -> Self:
        if problem := missing_package():
            raise ValueError(problem)
        return self
