"""Ids made of names are UUIDs of version 5, as everybody else makes them."""

from __future__ import annotations

import uuid

import pytest

from pipeline.ids import name_uuid


@pytest.mark.parametrize("name", ["", "a", "policy-intake", "ü\x1f\n", "x" * 1000])
def test_the_id_of_a_name_is_its_uuid_of_version_5(name: str) -> None:
    for number in range(50):
        namespace = uuid.UUID(int=number * 0x1234567_89ABCDEF_01234567_89ABCDEF % 2**128)
        assert name_uuid(str(namespace), name) == str(uuid.uuid5(namespace, name))
