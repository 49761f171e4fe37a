"""An mcap file without an index, from the front: whole chunks, loose messages, and where something is missing."""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass, field

from vlaforget_ros.episodes.storage.losses import NEVER_NS, Loss
from vlaforget_ros.episodes.storage.mcap_index import Index, Part
from vlaforget_ros.episodes.storage.mcap_layout import (
    RawFile,
    chunk_place,
    next_chunk,
    next_message,
    tail,
    unpacked,
)
from vlaforget_ros.episodes.storage.mcap_records import (
    CHUNK,
    DATA_END,
    MESSAGE,
    MESSAGE_INDEX,
    Definitions,
    Unsound,
    message,
    records,
)

_ROW = 1 << 20
"""Loose messages are read in rows of about so many bytes."""


@dataclass
class _Seen:
    """Times and counts of the messages of a part."""

    start_ns: int = NEVER_NS
    end_ns: int = 0
    counts: Counter[int] = field(default_factory=Counter)

    def add(self, channel: int, time_ns: int) -> None:
        self.start_ns, self.end_ns = min(self.start_ns, time_ns), max(self.end_ns, time_ns)
        self.counts[channel] += 1


@dataclass
class _Gap:
    """A loss whose end is not known before the next good message."""

    start_ns: int
    what: str
    counts: Counter[int] | None = None


class _Walk:
    def __init__(self, raw: RawFile) -> None:
        self.raw = raw
        self.definitions = Definitions()
        self.parts: list[Part] = []
        self.losses: list[Loss] = []
        self.chunked = False
        self._gap: _Gap | None = None
        self._row_at, self._row = 0, _Seen()
        self._last_ns = 0

    def run(self, at: int) -> None:
        while at < self.raw.size:
            try:
                opcode, start, stop = self.raw.head(at)
                if opcode > 0x7F and opcode != 0x80:
                    raise Unsound(f"record at {at}: opcode {opcode}")
                if opcode in (DATA_END, 2):
                    break
                self._take(at, opcode, start, stop)
            except Unsound as error:
                self._end_row(at)
                stop = self._behind(at, error)
            at = stop
        self._end_row(min(at, self.raw.size))
        if self._gap is not None:
            self._lost(NEVER_NS)

    def _take(self, at: int, opcode: int, start: int, stop: int) -> None:
        if opcode == CHUNK:
            self._end_row(at)
            self.chunked = True
            place = chunk_place(self.raw, at)
            try:
                seen = self._survey(unpacked(self.raw, place))
            except Unsound as error:
                self._miss(str(error))
                self._count_lost(stop)
                return
            self._good(seen)
            self.parts.append(Part(at, place.length, place, seen.start_ns, seen.end_ns, seen.counts))
        elif opcode == MESSAGE:
            channel, time_ns, _ = message(self.raw.read(start, 22), 0, stop - start)
            if channel not in self.definitions.channels:
                raise Unsound(f"message at {at} of an unknown channel {channel}")
            if not self._row.counts:
                self._row_at = at
            self._row.add(channel, time_ns)
            if stop - self._row_at > _ROW:
                self._end_row(stop)
        elif opcode in (3, 4):
            self.definitions.take(opcode, self.raw.read(start, stop - start), 0, stop - start)

    def _survey(self, data: bytes) -> _Seen:
        seen = _Seen()
        for opcode, start, stop in records(data):
            if opcode == MESSAGE:
                channel, time_ns, _ = message(data, start, stop)
                seen.add(channel, time_ns)
            else:
                self.definitions.take(opcode, data, start, stop)
        if not seen.counts.keys() <= self.definitions.channels.keys():
            raise Unsound("a chunk has messages of an unknown channel")
        return seen

    def _end_row(self, at: int) -> None:
        row, self._row = self._row, _Seen()
        if row.counts:
            self._good(row)
            part = Part(self._row_at, at - self._row_at, None, row.start_ns, row.end_ns, row.counts)
            self.parts.append(part)

    def _behind(self, at: int, error: Unsound) -> int:
        """Where to go on behind a record that is none; takes what is whole of one that was cut off."""
        if (whole := self._cut_chunk(at)) is not None:
            self._good(whole[1])
            self.parts.append(whole[0])
            self._miss("the file ends within a chunk")
            return self.raw.size
        self._miss(str(error))
        if self.chunked:
            return next_chunk(self.raw, at + 1)
        found = next_message(self.raw, at + 1, self.definitions.channels)
        # The first damage in a file may hide its first chunk.
        return min(found, next_chunk(self.raw, at + 1)) if not self.parts else found

    def _cut_chunk(self, at: int) -> tuple[Part, _Seen] | None:
        """Messages of a chunk that was not compressed and that the file ends in."""
        try:
            place = chunk_place(self.raw, at, cut=True)
        except Unsound:
            return None
        if place.compression:
            return None
        data = self.raw.read(place.data_at, place.stored)
        seen, good = _Seen(), 0
        try:
            for opcode, start, stop in records(data):
                if opcode == MESSAGE:
                    channel, time_ns, _ = message(data, start, stop)
                    if channel not in self.definitions.channels:
                        break
                    seen.add(channel, time_ns)
                else:
                    self.definitions.take(opcode, data, start, stop)
                good = stop
        except Unsound:
            pass
        return Part(place.data_at, good, None, seen.start_ns, seen.end_ns, seen.counts), seen

    def _count_lost(self, at: int) -> None:
        """The message indices behind a lost chunk say what was in it."""
        counts: Counter[int] = Counter()
        try:
            opcode, start, stop = self.raw.head(at)
            while opcode == MESSAGE_INDEX:
                channel, size = struct.unpack("<HI", self.raw.read(start, 6))
                counts[channel] += size // 16
                opcode, start, stop = self.raw.head(stop)
        except (Unsound, struct.error):
            return
        if counts and self._gap is not None and self._gap.counts is None:
            self._gap.counts = counts

    def _miss(self, what: str) -> None:
        if self._gap is None:
            self._gap = _Gap(self._last_ns, what)
        else:
            self._gap = _Gap(self._gap.start_ns, self._gap.what)

    def _good(self, seen: _Seen) -> None:
        if not seen.counts:
            return
        if self._gap is not None:
            self._lost(seen.start_ns)
        self._last_ns = max(self._last_ns, seen.end_ns)

    def _lost(self, end_ns: int) -> None:
        gap, self._gap = self._gap, None
        if gap is None:
            return
        counts = None
        if gap.counts is not None and gap.counts.keys() <= self.definitions.channels.keys():
            counts = Counter[str]()
            for channel, count in gap.counts.items():
                counts[self.definitions.channels[channel].topic] += count
        # What is lost lies between two good messages, which themselves are there.
        start_ns = gap.start_ns + 1
        end_ns = end_ns if end_ns == NEVER_NS else max(end_ns - 1, start_ns)
        self.losses.append(Loss(start_ns, end_ns, counts, gap.what))


def walk(raw: RawFile, at: int) -> Index:
    """Walk through a file once, from its first record on; every chunk is unpacked."""
    walked = _Walk(raw)
    try:
        end = tail(raw)
        if end.summary_ok is not False:
            # The first chunk, which defines the topics, may be the damaged one.
            for opcode, start, stop in records(end.summary):
                walked.definitions.take(opcode, end.summary, start, stop)
    except Unsound:
        end = None
    walked.run(at)
    parts = [part for part in walked.parts if part.counts]
    return Index(
        walked.definitions.channels, sorted(parts, key=lambda part: part.start_ns), end, walked.losses
    )
