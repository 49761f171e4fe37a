"""Compressed files and messages, and what damaged ones make their libraries raise."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import zstandard
from isal.isal_zlib import crc32
from rosbags.rosbag2.errors import ReaderError
from rosbags.rosbag2.storage_mcap import decompress

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


def unpack_chunk(data: bytes, compression: str, size: int, crc: int) -> bytes:
    """Content of a chunk of mcap.

    Args:
        data: as they lie in the file.
        compression: "", ``lz4`` or ``zstd``.
        size: bytes of the content.
        crc: CRC-32 of the content; 0 for none, which is not checked.

    Raises:
        one of :data:`UNSOUND`: that is not what the bytes are.
    """
    content = _unpacked_at_once(data) if compression == "zstd" else None
    if content is not None and len(content) == size and (not crc or crc32(content) == crc):
        return content
    # Whatever is unusual or wrong is rosbags' to read or to name.
    return decompress(data, compression, size, crc)


def unpack_message(data: bytes) -> bytes:
    """A message that was compressed on its own. Raises ValueError where it is damaged."""
    content = _unpacked_at_once(data)
    if content is not None:
        return content
    try:
        return zstd.decompress(data)
    except zstd.ZstdError as error:
        raise ValueError(str(error)) from error


def _unpacked_at_once(data: bytes) -> bytes | None:
    """Content of a single frame that says how long it will be: quicker than the module zstd; else None."""
    try:
        return zstandard.ZstdDecompressor().decompress(data, allow_extra_data=False)
    except (zstandard.ZstdError, MemoryError):
        return None
