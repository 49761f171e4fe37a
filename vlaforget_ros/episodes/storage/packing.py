"""Compressed files and messages, and what damaged ones make their libraries raise."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

from rosbags.rosbag2.errors import ReaderError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

UNSOUND = (
    ReaderError,
    zstd.ZstdError,
    ValueError,
    RuntimeError,
    OSError,
    EOFError,
    MemoryError,
    struct.error,
)
"""Of bytes that are not what they should be."""
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
"""How a compressed message begins; no CDR does."""
_BLOCK = 1 << 20


def unpack_file(path: Path, folder: Path) -> tuple[Path, str]:
    """Unpack a file that was compressed as a whole; of a damaged one what comes before the damage.

    Returns:
        the unpacked file, and what is wrong with the packed one ("" for nothing).
    """
    target = folder / path.name.removesuffix(".zstd")
    unpacker, wrong = zstd.ZstdDecompressor(), ""
    with path.open("rb") as packed, target.open("wb") as plain:
        while block := packed.read(_BLOCK):
            try:
                while block:
                    plain.write(unpacker.decompress(block))
                    block = unpacker.unused_data
                    unpacker = zstd.ZstdDecompressor() if block else unpacker
            except zstd.ZstdError as error:
                wrong = str(error)
                break
        if not wrong and not unpacker.eof:
            wrong = "it ends too early"
    return target, wrong


def unpack_message(data: bytes) -> bytes:
    """A message that was compressed on its own. Raises ValueError where it is damaged."""
    try:
        return zstd.decompress(data)
    except zstd.ZstdError as error:
        raise ValueError(str(error)) from error
