"""The page on production lists every table that the runner and its own plugins bring, and no other."""

from __future__ import annotations

import re

from pipeline.ledger.migrations import core_branch
from pipeline.plugins import load_plugins
from tests.docs.blocks import ROOT, section


def test_every_table_is_listed() -> None:
    lines = section(ROOT / "docs" / "production.md", "PostgreSQL").splitlines()
    listed = {name for line in lines if line.startswith("| `") for name in re.findall(r"`(\w+)`", line.split("|")[1])}
    branches = [core_branch(), *load_plugins().branches()]
    assert listed == {str(table.__tablename__) for branch in branches for table in branch.tables}
