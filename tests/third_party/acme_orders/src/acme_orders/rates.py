"""The resource acme-rates: exchange rates, in a file that Acme's finance department writes each morning."""

import json
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from pipeline import Reject, Resource, Unavailable


class RatesOptions(BaseModel):
    """``[resource.acme-rates]``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: Path = Field(description='JSON: currency → its value in euros, as in {"EUR": 1, "USD": 0.5}.')


class Rates(Resource[RatesOptions]):
    name = "acme-rates"
    Options = RatesOptions
    environment: ClassVar = {"file": "ACME_RATES"}

    async def rate(self, currency: str, wanted: str) -> float:
        """How much of one currency another one is worth."""
        rates = self._read()
        unknown = [name for name in (currency, wanted) if name not in rates]
        if unknown:
            raise Reject(f"no rate for {unknown[0]}", kind="unknown_currency")
        return rates[currency] / rates[wanted]

    async def probe(self) -> None:
        self._read()

    def describe(self) -> str:
        return f"rates in {self.options.file}"

    def _read(self) -> dict[str, float]:
        try:
            return dict(json.loads(self.options.file.read_text()))
        except (OSError, ValueError) as error:
            raise Unavailable("acme-rates", f"{self.options.file}: {error}") from error
