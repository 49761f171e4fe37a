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
import weakref
from collections.abc import Callable, Collection, Container, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from isal.isal_zlib import crc32
from rosbags.rosbag2.errors import ReaderError
from rosbags.rosbag2.storage_mcap import ChunkInfo

from vlaforget_ros.episodes.storage.ahead import Ahead
from vlaforget_ros.episodes.storage.message import Message, Rest, read_into
from vlaforget_ros.episodes.storage.packing import UNSOUND, unpack_chunk

HEAD = 512
"""Bytes that are read of a message of which only the beginning matters."""

_MESSAGE, _INDEX = 0x05, 0x07
_CONTRADICTION = "it and its message index contradict each other"
_RECORD = struct.Struct("<BQHIQQ")  # opcode, length; channel, sequence, log time, publish time
_FRAME = struct.Struct("<BQ")
_INNER = _RECORD.size - _FRAME.size
# Below this a message is copied out of its chunk: a small one that is kept must not keep the chunk in memory.
_SMALL = 4096
_UNPACKERS = min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
_UNPACKED_BYTES = 1 << 26
"""Most that chunks unpacked ahead may take."""


Block = bytes | memoryview
"""Content of a chunk, or of a part of one; a view is good until the next but one is read."""

Times = Mapping[str, Container[int]]
"""Of a topic, the log times [ns] of the messages that matter."""


class Unindexed(ValueError):
    """The message index does not say what the chunk holds; the chunk itself may be fine."""


_Found = tuple[int, int, int, Message | None]
"""A message after its log time, chunk and position there: sorts as rosbags sorts."""


class _Wanted(NamedTuple):
    """What is wanted of a channel."""

    topic: str
    msgtype: str
    head: bool
    at: Container[int] | None

    def has(self, time_ns: int) -> bool:
        return self.at is None or time_ns in self.at


class _Room:
    """Memory for one chunk after the other: fresh memory for each would take longer."""

    def __init__(self) -> None:
        self._room = np.empty(0, dtype=np.uint8)

    def of(self, size: int) -> np.ndarray:
        if len(self._room) < size:
            self._room = np.empty(size, dtype=np.uint8)
        return self._room[:size]


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
        # A walk that nobody finishes must not hold the file for ever.
        self._closing = weakref.finalize(self, os.close, self._file)
        self._checked: set[int] = set()
        self._sizes: dict[int, int] = {}

    def close(self) -> None:
        """Close the file; closing twice is fine."""
        self._closing()

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
        groups = list(_overlapping(chunks))
        # Unpacking is worth another thread; a checksum takes no longer than the hand-over would.
        packed = [group[0] for group in groups if len(group) == 1 and group[0].compression]
        room = _Room()
        with Ahead(self._load, packed, _depth(packed)) as ahead:
            for group in groups:
                if len(group) == 1:
                    chunk = group[0]
                    load = ahead.next if chunk.compression else partial(self._load, chunk, room)
                    for *_, message in self._sound(chunk, wanted, load):
                        if message is not None:
                            yield message
                    continue
                for *_, message in heapq.merge(*(self._later(chunk, wanted) for chunk in group)):
                    if message is not None:
                        yield message

    def _later(self, chunk: ChunkInfo, wanted: Mapping[int, _Wanted]) -> Iterator[_Found]:
        # The first item opens the chunk only when its turn comes: merging asks every iterator for one at once.
        yield chunk.message_start_time, -1, chunk.chunk_start_offset, None
        yield from self._sound(chunk, wanted, lambda: self._load(chunk))

    def _sound(
        self, chunk: ChunkInfo, wanted: Mapping[int, _Wanted], load: Callable[[], Block | None]
    ) -> list[_Found]:
        """All of a chunk or nothing: half of one whose other half is wrong is not to be trusted."""
        try:
            return self._read(chunk, wanted, load())
        except UNSOUND as error:
            self._lose(chunk, error)
            return []

    def _read(self, chunk: ChunkInfo, wanted: Mapping[int, _Wanted], data: Block | None) -> list[_Found]:
        """Wanted messages of one chunk in order."""
        self._checked.add(chunk.chunk_start_offset)
        # Where the rest of a message lies in the file is said by the index alone.
        heads = not chunk.compression and any(each.head for each in wanted.values())
        if chunk.message_index_offsets and (data is None or heads):
            try:
                return sorted(self._by_index(chunk, wanted, data))
            except Unindexed as error:
                # Which of the two is wrong, only a checksum tells.
                if str(error) and not self._checksum(chunk):
                    raise
        whole = self._content(chunk, self._checksum(chunk)) if data is None else data
        return sorted(_parsed(chunk, whole, wanted))

    def _load(self, chunk: ChunkInfo, room: _Room | None = None) -> Block | None:
        """What of a chunk must be read as a whole: all of it if it is compressed, or was not checked yet and can be."""
        new = chunk.chunk_start_offset not in self._checked
        if not chunk.compression and not new:
            return None
        crc = self._checksum(chunk)
        return self._content(chunk, crc if new else 0, room) if chunk.compression or crc else None

    def _content(self, chunk: ChunkInfo, crc: int, room: _Room | None = None) -> Block:
        at, size = _content_start(chunk), chunk.compressed_size
        if chunk.compression:
            return unpack_chunk(self._bytes(at, size), chunk.compression, chunk.uncompressed_size, crc)
        block = np.empty(size, dtype=np.uint8) if room is None else room.of(size)
        read_into(self._file, at, block)
        if crc and crc32(block.data) != crc:
            raise ReaderError("Chunk checksum mismatch.")
        return block.data

    def _checksum(self, chunk: ChunkInfo) -> int:
        (crc,) = struct.unpack("<I", self._bytes(chunk.chunk_start_offset + _FRAME.size + 24, 4))
        return int(crc)

    def _by_index(
        self, chunk: ChunkInfo, wanted: Mapping[int, _Wanted], held: Block | None
    ) -> Iterator[_Found]:
        """From ``held``, the chunk's content, or straight from the file.

        Raises Unindexed where the index does not fit what it points at.
        """
        begin, size = _content_start(chunk), chunk.uncompressed_size
        index_start = chunk.chunk_start_offset + chunk.chunk_length
        index = self._bytes(index_start, chunk.message_index_length)
        for key, offset in chunk.message_index_offsets.items():
            if key not in wanted:
                continue
            channel = wanted[key]
            entries = _entries(index, offset - index_start, key)
            if len(entries) != chunk.channel_count.get(key, len(entries)):
                raise Unindexed(_CONTRADICTION)
            for time_ns, position in entries:
                if not channel.has(time_ns):
                    continue
                if position + _RECORD.size > size:
                    raise Unindexed
                part = None if held is None else held[position:]
                message = self._message(begin + position, size - position, key, channel, time_ns, part)
                if chunk.message_start_time <= time_ns <= chunk.message_end_time:
                    yield time_ns, chunk.chunk_start_offset, position, message

    def _message(
        self, at: int, room: int, key: int, wanted: _Wanted, time_ns: int, held: Block | None
    ) -> Message:
        # As long as the channel's last one: images are, and one read is enough then.
        likely = HEAD if wanted.head else self._sizes.get(key, _SMALL)
        data = os.pread(self._file, min(_RECORD.size + likely, room), at) if held is None else held
        if len(data) < _RECORD.size:
            raise ReaderError("Truncated chunk.")
        opcode, length, channel, _, logged, _ = _RECORD.unpack_from(data)
        size = length - _INNER
        if (opcode, channel, logged) != (_MESSAGE, key, time_ns) or size < 0 or _RECORD.size + size > room:
            raise Unindexed(_CONTRADICTION)
        topic, msgtype = wanted.topic, wanted.msgtype
        if wanted.head:
            head = min(size, HEAD, len(data) - _RECORD.size)
            rest = Rest(self._file, at + _RECORD.size + head, size - head) if head < size else None
            return Message(topic, msgtype, time_ns, bytes(data[_RECORD.size : _RECORD.size + head]), rest)
        self._sizes[key] = size
        if len(data) < _RECORD.size + size:
            data = bytes(data) + self._bytes(at + len(data), _RECORD.size + size - len(data))
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


def _depth(packed: Sequence[ChunkInfo]) -> int:
    """How many chunks to unpack at a time: a thread for each core, as far as there is room."""
    largest = max((chunk.uncompressed_size for chunk in packed), default=1)
    return max(1, min(_UNPACKERS, _UNPACKED_BYTES // max(largest, 1)))


def _content_start(chunk: ChunkInfo) -> int:
    return chunk.chunk_start_offset + _FRAME.size + 40 + len(chunk.compression)


def _entries(index: bytes, at: int, key: int) -> list[tuple[int, int]]:
    """(log time, position in the chunk) of one channel."""
    try:
        opcode, length, channel, size = struct.unpack_from("<BQHI", index, at)
        fits = length == size + 6 and at + 15 + size <= len(index)
        if (opcode, channel) != (_INDEX, key) or size % 16 or not fits:
            raise Unindexed
        values = struct.unpack_from(f"<{size // 8}Q", index, at + 15)
    except struct.error as error:
        raise Unindexed from error
    return list(zip(values[::2], values[1::2], strict=True))


def _parsed(chunk: ChunkInfo, data: Block, wanted: Mapping[int, _Wanted]) -> Iterator[_Found]:
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
                yield time_ns, chunk.chunk_start_offset, position, message
        position = after


def _kept(data: Block, at: int, size: int) -> bytes | memoryview:
    # A view is a buffer that will be used again.
    if size < _SMALL or isinstance(data, memoryview):
        return bytes(data[at : at + size])
    return memoryview(data)[at : at + size]
