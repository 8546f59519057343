"""The chaos rig's fixtures."""

from __future__ import annotations

from tests.integration.conftest import site

__all__ = ["site"]
