"""The suite as a whole: a connector's test class subclasses `ConnectorContract`."""

from __future__ import annotations

from tests.contract.driver import Driver, Outages, Reader, connected, event, events, eventually, numbers, read_all
from tests.contract.life import LifeContract
from tests.contract.outage import OutageContract
from tests.contract.publishing import PublishingContract
from tests.contract.reading import FieldsContract, ReadingContract, StartContract
from tests.contract.streams import StreamsContract

__all__ = [
    "ConnectorContract",
    "Driver",
    "OutageContract",
    "Outages",
    "Reader",
    "connected",
    "event",
    "events",
    "eventually",
    "numbers",
    "read_all",
]


class ConnectorContract(
    ReadingContract, StartContract, FieldsContract, PublishingContract, StreamsContract, LifeContract
):
    """Everything that a connector promises."""
