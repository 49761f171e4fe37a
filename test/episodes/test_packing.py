"""Chunks are unpacked as rosbags unpacks them, also where a quicker way is not open, and damage is found."""

from __future__ import annotations

from collections.abc import Callable
from zlib import crc32

import lz4.frame
import pytest
import zstandard
from rosbags.rosbag2.errors import ReaderError

from vlaforget_ros.episodes.storage import packing
from vlaforget_ros.episodes.storage.ahead import Ahead
from vlaforget_ros.episodes.storage.packing import UNSOUND, unpack_chunk, unpack_message

CONTENT = bytes(range(256)) * 40


def in_two_frames(data: bytes) -> bytes:
    return zstandard.compress(data[:500]) + zstandard.compress(data[500:])


def of_unknown_size(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=False).compress(data)


def with_checksum(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


FORMS = (zstandard.compress, in_two_frames, of_unknown_size, with_checksum)


@pytest.mark.parametrize("pack", FORMS)
@pytest.mark.parametrize("crc", [0, crc32(CONTENT)])
def test_every_form_of_zstd(pack: Callable[[bytes], bytes], crc: int) -> None:
    assert unpack_chunk(pack(CONTENT), "zstd", len(CONTENT), crc) == CONTENT
    assert unpack_message(pack(CONTENT)) == CONTENT


def test_the_usual_form_is_not_left_to_rosbags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "decompress", None)
    assert unpack_chunk(zstandard.compress(CONTENT), "zstd", len(CONTENT), crc32(CONTENT)) == CONTENT


def test_other_compressions() -> None:
    assert unpack_chunk(lz4.frame.compress(CONTENT), "lz4", len(CONTENT), crc32(CONTENT)) == CONTENT


@pytest.mark.parametrize("pack", FORMS)
def test_damage_is_found(pack: Callable[[bytes], bytes]) -> None:
    packed = pack(CONTENT)
    for at in range(len(packed)):
        flipped = bytes([*packed[:at], packed[at] ^ 1, *packed[at + 1 :]])
        try:
            # Some bits of a header say nothing about the content.
            assert unpack_chunk(flipped, "zstd", len(CONTENT), crc32(CONTENT)) == CONTENT
        except UNSOUND:
            continue
    for size in (len(CONTENT) - 1, len(CONTENT) + 1):
        with pytest.raises(ReaderError, match="size mismatch"):
            unpack_chunk(packed, "zstd", size, 0)
    with pytest.raises(ReaderError, match="checksum"):
        unpack_chunk(packed, "zstd", len(CONTENT), 1)
    with pytest.raises(UNSOUND):
        unpack_chunk(packed[:-3], "zstd", len(CONTENT), 0)
    with pytest.raises(UNSOUND):
        unpack_chunk(packed + b"more", "zstd", len(CONTENT), 0)


@pytest.mark.parametrize("depth", [1, 3, 20])
def test_work_ahead_keeps_the_order_and_the_errors(depth: int) -> None:
    def work(item: int) -> float:
        return 12 / item

    with Ahead(work, [3, 0, 4, 6, 1], depth) as ahead:
        assert ahead.next() == 4
        with pytest.raises(ZeroDivisionError):
            ahead.next()
        assert [ahead.next() for _ in range(3)] == [3, 2, 12]
        with pytest.raises(IndexError):
            ahead.next()


def test_no_more_is_made_ahead_than_asked_for() -> None:
    begun: list[int] = []
    with Ahead(begun.append, range(10), 2) as ahead:
        ahead.next()
        ahead.next()
    assert len(begun) <= 4
