"""How much of a damaged bag is recovered: cut at ten places, and one bit flipped in each chunk.

What must be left is told by the bytes of the undamaged file, with other code than the reader's: of a cut file all
messages whose last byte is there, of a flipped bit all messages but those of its chunk.
"""

from __future__ import annotations

import struct
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np

from vlaforget_ros.episodes.folders import find_bags
from vlaforget_ros.episodes.storage.bags import Bag
from vlaforget_ros.episodes.writer import EpisodeWriter

_ROLLOUTS, _FRAMES, _SIZE = 12, 40, 64
_CUTS = 10
_SEED = 7

Content = Counter[tuple[str, int, int]]
"""Messages by topic, log time and checksum of their bytes."""


class _Chunk(NamedTuple):
    """From the undamaged file: where a chunk's data lie, and where each of its messages ends in the file."""

    data_at: int
    data_end: int
    ends: tuple[int, ...]


def run_damage(folder: Path) -> dict[str, Any]:
    """Write a bag, damage copies of it, and compare what is read with what must be left.

    Args:
        folder: where the bags may lie; it exists.

    Returns:
        ``truncations`` and ``flips`` (a row for each case), ``recovered_share_error`` (largest difference between
        recovered and expected messages, as a share of all) and ``invented`` (messages that were never written).
    """
    whole = _write(folder / "whole")
    data = whole.read_bytes()
    chunks = _chunks(data)
    written = _content(whole)
    total = sum(len(chunk.ends) for chunk in chunks)
    copy = folder / "damaged.mcap"
    rng = np.random.default_rng(_SEED)
    cuts: list[dict[str, float]] = []
    for part in range(1, _CUTS + 1):
        # The last one takes the end of the summary, which costs no message.
        size = int(len(data) * part / (_CUTS + 0.5)) if part < _CUTS else len(data) - 10
        copy.write_bytes(data[:size])
        expected = sum(end <= size for chunk in chunks for end in chunk.ends)
        cuts.append({"fraction": size / len(data), **_compared(copy, written, expected)})
    flips: list[dict[str, float]] = []
    for number, chunk in enumerate(chunks):
        byte, bit = int(rng.integers(chunk.data_at, chunk.data_end)), int(rng.integers(8))
        flipped = bytearray(data)
        flipped[byte] ^= 1 << bit
        copy.write_bytes(flipped)
        row = {"chunk": number, "byte": byte, "bit": bit}
        flips.append({**row, **_compared(copy, written, total - len(chunk.ends))})
    copy.unlink()
    rows = [*cuts, *flips]
    return {
        "truncations": cuts,
        "flips": flips,
        "messages": total,
        "chunks": len(chunks),
        "recovered_share_error": max(abs(row["recovered"] - row["expected"]) for row in rows) / total,
        "invented": sum(row["invented"] for row in rows),
    }


def _write(folder: Path) -> Path:
    """A bag of many chunks with a checksum each: no compression, so that a cut chunk has a beginning to recover."""
    rng = np.random.default_rng(_SEED)
    with EpisodeWriter(folder) as writer:
        for number in range(_ROLLOUTS):
            writer.begin(f"r{number}", "open the drawer")
            for _ in range(_FRAMES):
                image = rng.integers(0, 256, (_SIZE, _SIZE, 3), dtype=np.uint8)
                writer.frame(image, rng.normal(size=7), ee_position=rng.normal(size=3))
            writer.end(True)
            writer.flush()
    (bag,) = find_bags([folder])
    return next(bag.glob("*.mcap"))


def _chunks(data: bytes) -> list[_Chunk]:
    """From the file's own bytes, chunk by chunk."""
    found = []
    at = 8
    while at < len(data):
        opcode, length = struct.unpack_from("<BQ", data, at)
        if opcode == 0x06:
            begin = at + 9 + 40
            end = begin + struct.unpack_from("<Q", data, at + 9 + 32)[0]
            found.append(_Chunk(begin, end, tuple(_ends(data, begin, end))))
        if opcode == 0x0F:
            break
        at += 9 + length
    return found


def _ends(data: bytes, at: int, end: int) -> list[int]:
    ends = []
    while at < end:
        opcode, length = struct.unpack_from("<BQ", data, at)
        at += 9 + length
        if opcode == 0x05:
            ends.append(at)
    return ends


def _content(file: Path) -> Content:
    with Bag(file) as bag:
        return Counter((m.topic, m.time_ns, crc32(m.data)) for m in bag.messages(tuple(bag.topics)))


def _compared(file: Path, written: Content, expected: int) -> dict[str, int]:
    found = _content(file)
    return {
        "expected": expected,
        "recovered": sum((found & written).values()),
        "invented": sum((found - written).values()),
    }
