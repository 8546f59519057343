"""A block: messages that their publisher packed into one entry of a chunk, compressed or not."""

from __future__ import annotations

import struct
import zlib
from typing import Final

__all__ = ["MAX_BLOCK", "BlockError", "unpacked"]

MAX_BLOCK: Final = 64 * 1024 * 1024
"""How many bytes a block may unpack to, so that a small message can't fill the memory. A publisher packs what fits into
one frame of 1 MiB."""
_COMPRESSIONS: Final = {0: "none", 1: "gzip", 2: "snappy", 3: "lz4", 4: "zstd"}
_u32 = struct.Struct(">I").unpack_from


class BlockError(ValueError):
    """The block's messages can't be told apart; its text says why."""


def unpacked(compression: int, content: bytes, size: int, count: int) -> list[bytes]:
    """The messages of a block.

    Args:
        compression: How it is compressed, as the protocol numbers it.
        content: The block.
        size: How many bytes it says that it has uncompressed.
        count: How many messages it says that it has.

    Raises:
        BlockError: It can't be unpacked, or does not hold what it says.
    """
    if compression == 1:
        content = _gunzip(content, size)
    elif compression:
        name = _COMPRESSIONS.get(compression, f"method {compression}")
        raise BlockError(f"it is compressed with {name}: only gzip and none can be read")
    records: list[bytes] = []
    pos = 0
    for _ in range(count):
        if pos + 4 > len(content):
            raise BlockError(f"it ends after {len(records)} messages")
        end = pos + 4 + _u32(content, pos)[0]
        if end > len(content):
            raise BlockError(f"it ends within message {len(records) + 1}")
        records.append(content[pos + 4 : end])
        pos = end
    if pos < len(content):
        raise BlockError(f"{len(content) - pos} bytes follow its last message")
    return records


def _gunzip(content: bytes, size: int) -> bytes:
    if size > MAX_BLOCK:
        raise BlockError(f"it would unpack to {size} bytes: at most {MAX_BLOCK} are")
    unzip = zlib.decompressobj(wbits=31)
    try:
        data = unzip.decompress(content, size + 1)
    except zlib.error as error:
        raise BlockError(f"it is no sound gzip: {error}") from None
    if len(data) != size or not unzip.eof:
        raise BlockError("it does not unpack to the size that it gives")
    return data
