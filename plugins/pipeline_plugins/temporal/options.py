"""The keys of ``[resource.temporal]``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_validator

from pipeline.config.models import Seconds

__all__ = ["DEFAULT_PORT", "TemporalOptions", "TlsOptions"]

DEFAULT_PORT = 7233
"""The port of a Temporal frontend where none is named."""

_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:\[\]]+)(?::(\d+))?")


def _address(value: object) -> object:
    """``host`` or ``host:port``; an empty text, as an unset variable leaves it, is none."""
    if not isinstance(value, str):
        return value
    value = value.strip()
    if not value:
        return None
    if "/" in value:
        raise ValueError(f"{value!r} is a URL: write host:port, as in 'localhost:{DEFAULT_PORT}'")
    if value.count(":") > 1 and not value.startswith("["):
        value = f"[{value}]"
    found = _ADDRESS.fullmatch(value)
    if found is None or not 0 < int(found[2] or DEFAULT_PORT) < 65_536:
        raise ValueError(f"{value!r} is not an address: write host:port, as in 'localhost:{DEFAULT_PORT}'")
    return value if found[2] else f"{value}:{DEFAULT_PORT}"


Port = Annotated[int, Field(ge=1, le=65_535)]


class TlsOptions(BaseModel):
    """``tls = {…}``: files in PEM form, and the name that the server's certificate carries."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ca: Path | None = Field(None, description="The authority that signed the server's certificate; else the system's.")
    cert: Path | None = Field(None, description="The client's certificate, where the server asks for one.")
    key: Path | None = Field(None, description="The client certificate's private key.")
    server_name: str | None = Field(None, description="The server certificate's name, where it is not the host's.")

    @model_validator(mode="after")
    def _certificate_has_its_key(self) -> Self:
        if (self.cert is None) != (self.key is None):
            raise ValueError("cert and key belong together: give both or neither")
        return self


class TemporalOptions(BaseModel):
    """``[resource.temporal]``: where Temporal is; without an address, a server of our own runs on this machine."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    address: Annotated[str | None, BeforeValidator(_address)] = Field(
        None, description="The frontend's host:port; without it, an embedded dev server is started."
    )
    namespace: str = Field("default", min_length=1, description="The namespace of the workflows.")
    api_key: SecretStr | None = Field(None, description="An API key; TLS is on with it unless tls says otherwise.")
    tls: bool | TlsOptions | None = Field(None, description="true, false, or a table with ca, cert, key, server_name.")
    timeout: Seconds = Field(5.0, gt=0, description="How long one call may take before Temporal counts as unavailable.")
    database: Path = Field(
        Path(".pipeline/temporal.db"), description="Embedded: the file that keeps the workflows across restarts."
    )
    port: Port | None = Field(None, description=f"Embedded: the port; by default {DEFAULT_PORT}, or a free one.")
    ui_port: Port | None = Field(None, description="Embedded: the web UI's port; without it there is no web UI.")
    sample: bool = Field(
        False, description="Embedded: also run the workflow sample-workflow, so that there is one to pause."
    )
