"""Lets pytest explain failed assertions in the suite, which is a library and not a test module."""

import pytest

pytest.register_assert_rewrite(
    "tests.contract.driver",
    "tests.contract.reading",
    "tests.contract.publishing",
    "tests.contract.streams",
    "tests.contract.life",
    "tests.contract.outage",
)
