"""Messages of whole, indexed mcap files, in the order in which rosbags gives them; what nobody wants is not read.

Most of a recording is images, and most passes over it look at other topics, or at no more of an image than its stamp.
rosbags reads, and copies several times, every chunk that holds a wanted message. Here the message index of a chunk
that lies uncompressed in the file says where the wanted ones are, and only these bytes are read. A chunk with a
checksum is read and checked as a whole the first time, a compressed one every time. A chunk that is not sound is left
out as a whole, and named.

Layout: https://mcap.dev/spec.
"""

from __future__ import annotations

import heapq
import os
import struct
from binascii import crc32
from collections.abc import Callable, Collection, Container, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from rosbags.rosbag2.errors import ReaderError
from rosbags.rosbag2.storage_mcap import ChunkInfo, decompress

from vlaforget_ros.episodes.message import Message
from vlaforget_ros.episodes.packing import UNSOUND

HEAD = 512
"""Bytes that are read of a message of which only the beginning matters."""

_MESSAGE, _INDEX = 0x05, 0x07
_RECORD = struct.Struct("<BQHIQQ")  # opcode, length; channel, sequence, log time, publish time
_FRAME = struct.Struct("<BQ")
_INNER = _RECORD.size - _FRAME.size
# Below this a message is copied out of its chunk: a small one that is kept must not keep the chunk in memory.
_SMALL = 4096


Times = Mapping[str, Container[int]]
"""Of a topic, the log times [ns] of the messages that matter."""


class Unindexed(ValueError):
    """The message index does not say what the chunk holds; the chunk itself may be fine."""


class _Found(NamedTuple):
    """A message and where it lies: sorts as rosbags sorts."""

    time_ns: int
    chunk: int
    position: int
    message: Message | None


class _Wanted(NamedTuple):
    """What is wanted of a channel."""

    topic: str
    msgtype: str
    head: bool
    at: Container[int] | None

    def has(self, time_ns: int) -> bool:
        return self.at is None or time_ns in self.at


class IndexedFile:
    """The chunks of one mcap file.

    Args:
        path: of the file.
        chunks: where they lie.
        channels: number of a channel to its topic and message type.
        lose: told of every chunk that is not sound, each time it is met.
    """

    def __init__(
        self,
        path: Path,
        chunks: Collection[ChunkInfo],
        channels: Mapping[int, tuple[str, str]],
        lose: Callable[[ChunkInfo, Exception], None],
    ) -> None:
        self._chunks = sorted(chunks, key=lambda c: (c.message_start_time, c.chunk_start_offset))
        self._channels = dict(channels)
        self._lose = lose
        self._file = os.open(str(path), os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        self._checked: set[int] = set()
        self._sizes: dict[int, int] = {}

    def close(self) -> None:
        """Close the file; closing twice is fine."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def messages(
        self, topics: Mapping[str, str], heads: Collection[str] = (), at: Times = MappingProxyType({})
    ) -> Iterator[Message]:
        """Messages of some topics by log time; of one time, as they lie in the file.

        Args:
            topics: topic to message type.
            heads: topics of whose messages the first bytes are enough: see :class:`Message`.
            at: where a topic is in it, only its messages of these times are given.
        """
        wanted = {
            key: _Wanted(topic, msgtype, topic in heads, at.get(topic))
            for key, (topic, msgtype) in self._channels.items()
            if topics.get(topic) == msgtype
        }
        if not wanted:
            return
        chunks = [
            c
            for c in self._chunks
            if not c.message_index_offsets or not wanted.keys().isdisjoint(c.message_index_offsets)
        ]
        for group in _overlapping(chunks):
            if len(group) == 1:
                for found in self._sound(group[0], wanted):
                    if found.message is not None:
                        yield found.message
                continue
            for found in heapq.merge(*(self._later(chunk, wanted) for chunk in group)):
                if found.message is not None:
                    yield found.message

    def _later(self, chunk: ChunkInfo, wanted: Mapping[int, _Wanted]) -> Iterator[_Found]:
        # The first item opens the chunk only when its turn comes: merging asks every iterator for one at once.
        yield _Found(chunk.message_start_time, -1, chunk.chunk_start_offset, None)
        yield from self._sound(chunk, wanted)

    def _sound(self, chunk: ChunkInfo, wanted: Mapping[int, _Wanted]) -> list[_Found]:
        """All of a chunk or nothing: half of one whose other half is wrong is not to be trusted."""
        try:
            return self._read(chunk, wanted)
        except UNSOUND as error:
            self._lose(chunk, error)
            return []

    def _read(self, chunk: ChunkInfo, wanted: Mapping[int, _Wanted]) -> list[_Found]:
        """Wanted messages of one chunk in order."""
        start = chunk.chunk_start_offset
        data: bytes | None = None
        if chunk.compression or start not in self._checked:
            (crc,) = struct.unpack("<I", self._bytes(start + 9 + 24, 4))
            if chunk.compression or crc:
                data = self._content(chunk, 0 if start in self._checked else crc)
            self._checked.add(start)
        if data is None and chunk.message_index_offsets:
            try:
                return sorted(self._by_index(chunk, wanted))
            except Unindexed as error:
                if str(error):
                    raise
        whole = self._content(chunk, 0) if data is None else data
        return sorted(_parsed(chunk, whole, wanted))

    def _content(self, chunk: ChunkInfo, crc: int) -> bytes:
        stored = self._bytes(_content_start(chunk), chunk.compressed_size)
        if not chunk.compression:
            if crc and crc32(stored) != crc:
                raise ReaderError("Chunk checksum mismatch.")
            return stored
        return decompress(stored, chunk.compression, chunk.uncompressed_size, crc)

    def _by_index(self, chunk: ChunkInfo, wanted: Mapping[int, _Wanted]) -> Iterator[_Found]:
        """Raises Unindexed where the index does not fit what it points at."""
        begin, size = _content_start(chunk), chunk.uncompressed_size
        index_start = chunk.chunk_start_offset + chunk.chunk_length
        index = self._bytes(index_start, chunk.message_index_length)
        for key, offset in chunk.message_index_offsets.items():
            if key not in wanted:
                continue
            channel = wanted[key]
            for time_ns, position in _entries(index, offset - index_start, key):
                if not channel.has(time_ns):
                    continue
                if position + _RECORD.size > size:
                    raise Unindexed
                message = self._message(begin + position, size - position, key, channel, time_ns)
                if chunk.message_start_time <= time_ns <= chunk.message_end_time:
                    yield _Found(time_ns, chunk.chunk_start_offset, position, message)

    def _message(self, at: int, room: int, key: int, wanted: _Wanted, time_ns: int) -> Message:
        # As long as the channel's last one: images are, and one read is enough then.
        likely = HEAD if wanted.head else self._sizes.get(key, _SMALL)
        data = os.pread(self._file, min(_RECORD.size + likely, room), at)
        if len(data) < _RECORD.size:
            raise ReaderError("Truncated chunk.")
        opcode, length, channel, _, logged, _ = _RECORD.unpack_from(data)
        size = length - _INNER
        if (opcode, channel, logged) != (_MESSAGE, key, time_ns) or size < 0 or _RECORD.size + size > room:
            raise Unindexed("it and its message index contradict each other")
        topic, msgtype = wanted.topic, wanted.msgtype
        if wanted.head:
            end = min(_RECORD.size + min(size, HEAD), len(data))
            return Message(topic, msgtype, time_ns, data[_RECORD.size : end], _RECORD.size + size - end)
        self._sizes[key] = size
        if len(data) < _RECORD.size + size:
            data += self._bytes(at + len(data), _RECORD.size + size - len(data))
        return Message(topic, msgtype, time_ns, _kept(data, _RECORD.size, size))

    def _bytes(self, at: int, size: int) -> bytes:
        data = os.pread(self._file, size, at)
        if len(data) < size:
            raise ReaderError(f"Truncated record at offset {at}: expected {size} bytes, got {len(data)}.")
        return data


def _overlapping(chunks: Sequence[ChunkInfo]) -> Iterator[list[ChunkInfo]]:
    """Chunks in groups whose times do not overlap those of another group."""
    group: list[ChunkInfo] = []
    last = (-1, -1)
    for chunk in chunks:
        # Of one time, what lies further back in the file comes later.
        if group and (chunk.message_start_time, chunk.chunk_start_offset) > last:
            yield group
            group, last = [], (-1, -1)
        group.append(chunk)
        last = max(last, (chunk.message_end_time, chunk.chunk_start_offset))
    if group:
        yield group


def _content_start(chunk: ChunkInfo) -> int:
    return chunk.chunk_start_offset + _FRAME.size + 40 + len(chunk.compression)


def _entries(index: bytes, at: int, key: int) -> list[tuple[int, int]]:
    """(log time, position in the chunk) of one channel."""
    try:
        opcode, _, channel, size = struct.unpack_from("<BQHI", index, at)
        if (opcode, channel) != (_INDEX, key) or size % 16 or at + 15 + size > len(index):
            raise Unindexed
        values = struct.unpack_from(f"<{size // 8}Q", index, at + 15)
    except struct.error as error:
        raise Unindexed from error
    return list(zip(values[::2], values[1::2], strict=True))


def _parsed(chunk: ChunkInfo, data: bytes, wanted: Mapping[int, _Wanted]) -> Iterator[_Found]:
    """Wanted messages in a chunk's content, record by record."""
    position, end = 0, len(data)
    while position < end:
        if position + _FRAME.size > end:
            raise ReaderError("Truncated record in a chunk.")
        opcode, length = _FRAME.unpack_from(data, position)
        after = position + _FRAME.size + length
        if after > end or (opcode == _MESSAGE and length < _INNER):
            raise ReaderError("Truncated record in a chunk.")
        if opcode == _MESSAGE:
            _, _, key, _, time_ns, _ = _RECORD.unpack_from(data, position)
            within = chunk.message_start_time <= time_ns <= chunk.message_end_time
            if within and key in wanted and wanted[key].has(time_ns):
                content = _kept(data, position + _RECORD.size, length - _INNER)
                message = Message(wanted[key].topic, wanted[key].msgtype, time_ns, content)
                yield _Found(time_ns, chunk.chunk_start_offset, position, message)
        position = after


def _kept(data: bytes, at: int, size: int) -> bytes | memoryview:
    if size < _SMALL:
        return data[at : at + size]
    return memoryview(data)[at : at + size]
