"""A site for each test, on a copy of one migrated database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pipeline.parts import Parts
from tests.pipeline.replay.site import Kit, Site


@pytest.fixture(scope="session")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    """What all sites share."""
    kit = Kit(tmp_path_factory.mktemp("kit"))
    asyncio.run(kit.migrate())
    return kit


@pytest.fixture
async def site(tmp_path: Path, kit: Kit, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    """A pipeline with a stream of its own."""

    async def prepared(self: Parts) -> None:
        """Its database is migrated already, and to look for it takes longer than most replays here."""

    monkeypatch.setattr(Parts, "prepare_database", prepared)
    made = Site(tmp_path, kit)
    await made.connector.connect()
    await made.connector.create_stream("st")
    yield made
    await made.database.close()
    await made.connector.close()
