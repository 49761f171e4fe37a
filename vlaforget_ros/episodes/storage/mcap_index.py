"""The index of an mcap file: which parts it has, and which messages lie in them."""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from rosbags.rosbag2.storage_mcap import ChunkInfo

from vlaforget_ros.episodes.storage.losses import Loss
from vlaforget_ros.episodes.storage.mcap_layout import ChunkPlace, RawFile, Tail, chunk_place, tail, unpacked
from vlaforget_ros.episodes.storage.mcap_records import (
    CHANNEL,
    CHUNK_INDEX,
    HEAD,
    SCHEMA,
    STATISTICS,
    Channel,
    Definitions,
    NoSchema,
    Unsound,
    records,
    text,
)

_INDEX_HEAD = HEAD + 6
_INDEX_ENTRY = 16
"""Bytes of a message index, and of each message in it."""


@dataclass(frozen=True)
class Part:
    """A chunk, or a row of messages outside any chunk.

    Attributes:
        at: where it begins in the file.
        length: of it.
        place: None for a row.
        start_ns: first log time.
        end_ns: last log time.
        counts: channel to messages; None where the index does not say.
        index: channel to where its message index lies.
        index_length: bytes of all message indices.
    """

    at: int
    length: int
    place: ChunkPlace | None
    start_ns: int
    end_ns: int
    counts: Mapping[int, int] | None
    index: Mapping[int, int] = field(default_factory=dict)
    index_length: int = 0

    def may_have(self, channels: Collection[int]) -> bool:
        """Whether messages of some channels may be in it."""
        return self.counts is None or any(self.counts.get(channel) for channel in channels)

    def as_chunk(self, place: ChunkPlace) -> ChunkInfo:
        """As rosbags has it."""
        return ChunkInfo(
            self.start_ns,
            self.end_ns,
            self.at,
            self.length,
            dict(self.index),
            self.index_length,
            place.compression,
            place.stored,
            place.size,
            dict(self.counts or {}),
        )


@dataclass
class Index:
    """Parts in order of their first log times."""

    channels: dict[int, Channel]
    parts: list[Part]
    tail: Tail | None = None
    losses: list[Loss] = field(default_factory=list)


def read_index(raw: RawFile) -> Index | None:
    """The index at the end of a closed file.

    Returns:
        None when there is none, or none of use: nothing is wrong with the file then.

    Raises:
        Unsound: the file was not closed, or its index is damaged.
    """
    end = tail(raw)
    if end.summary_ok is False:
        raise Unsound("its index does not fit its checksum")
    try:
        return _index(raw, end)
    except NoSchema:
        return None
    except (Unsound, struct.error) as error:
        raise Unsound(f"its index is damaged ({error})") from error


def _index(raw: RawFile, end: Tail) -> Index | None:
    definitions, parts = Definitions(), list[Part]()
    chunks, total = None, None
    for opcode, start, stop in records(end.summary):
        if opcode in (SCHEMA, CHANNEL):
            definitions.take(opcode, end.summary, start, stop)
        elif opcode == CHUNK_INDEX:
            parts.append(_part(end.summary, start, stop))
        elif opcode == STATISTICS:
            total, _, _, _, _, chunks = struct.unpack_from("<QHIIII", end.summary, start)
    known = definitions.channels
    named = {channel for part in parts for channel in (part.counts or {})}
    if chunks not in (None, len(parts)) or not parts or not named <= known.keys() or not known:
        return None
    if total is not None and total != sum(sum((p.counts or {}).values()) for p in parts):
        # Messages outside the chunks, or chunks without a message index.
        if all(part.counts for part in parts):
            return None
        parts = [replace(part, counts=None, index={}) for part in parts]
    if end.summary_ok is None:
        _require_honest(raw, parts, known)
    return Index(known, sorted(parts, key=lambda part: part.start_ns), end)


def _part(data: bytes, start: int, stop: int) -> Part:
    try:
        start_ns, end_ns, at, length = struct.unpack_from("<QQQQ", data, start)
        (size,) = struct.unpack_from("<I", data, start + 32)
        offsets = sorted((o, c) for c, o in struct.iter_unpack("<HQ", data[start + 36 : start + 36 + size]))
        (index_length,) = struct.unpack_from("<Q", data, start + 36 + size)
        compression, behind = text(data, start + 44 + size, stop)
        stored, unpacked_size = struct.unpack_from("<QQ", data, behind)
    except struct.error as error:
        raise Unsound("an entry is cut off") from error
    ends = [*(offset for offset, _ in offsets[1:]), at + length + index_length]
    counts = {
        channel: (end - offset - _INDEX_HEAD) // _INDEX_ENTRY
        for (offset, channel), end in zip(offsets, ends, strict=False)
    }
    if any(count < 0 for count in counts.values()):
        raise Unsound("an entry makes no sense")
    place = ChunkPlace(at, length, compression, stored, unpacked_size, start_ns, end_ns)
    index = {channel: offset for offset, channel in offsets}
    return Part(at, length, place, start_ns, end_ns, counts or None, index, index_length)


def _require_honest(raw: RawFile, parts: list[Part], channels: dict[int, Channel]) -> None:
    """An index without a checksum is compared with what it is about: places of all chunks, topics of the first."""
    for part in parts:
        place = chunk_place(raw, part.at)
        if place != part.place:
            raise Unsound(f"the chunk at byte {part.at} contradicts it")
    definitions = Definitions()
    first = min(parts, key=lambda part: part.at).place
    try:
        data = unpacked(raw, first) if first is not None else b""
    except Unsound:
        return  # nothing to compare with; the chunk's own loss is found when it is read
    for opcode, start, stop in records(data):
        definitions.take(opcode, data, start, stop)
    for key, channel in definitions.channels.items():
        if channels.get(key) != channel:
            raise Unsound("it names other topics than the data")
