"""What the tests of actions share: books in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.handlers.governance.actions.books import Books, opened


@pytest.fixture
async def books() -> AsyncIterator[Books]:
    async with opened("sqlite+aiosqlite://") as made:
        yield made
