"""Messages of one mcap file, whole or damaged: every chunk on its own, each with its checksum.

A closed file is read by the index at its end, whose own checksum is looked at first. A file without a sound index is
walked from the front once, which finds every chunk and every message; behind damage the walk goes on at the next chunk
that is sound. Either way a chunk that does not fit its checksum is lost as a whole, and the others are read.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from types import MappingProxyType

from rosbags.rosbag2.storage_mcap import ChunkInfo

from vlaforget_ros.episodes.storage.indexed import IndexedFile, Times
from vlaforget_ros.episodes.storage.losses import Loss
from vlaforget_ros.episodes.storage.mcap_index import Index, Part, read_index
from vlaforget_ros.episodes.storage.mcap_layout import RawFile, data_section_ok, has_checksum, profile
from vlaforget_ros.episodes.storage.mcap_records import MESSAGE, Unsound, message, records
from vlaforget_ros.episodes.storage.mcap_walk import walk
from vlaforget_ros.episodes.storage.message import Message


class McapSource:
    """An open mcap file.

    Attributes:
        topics: topic to message type and definition text.
        counts: topic to messages, as far as the file knows.
        losses: what is lost; complete only when the topics of interest were read once.
        remarks: what is wrong with the file as such, one line each.
        checked: whether every message is covered by a checksum.

    Raises:
        Unsound: it is no mcap file, or nothing of it can be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.losses: list[Loss] = []
        self.remarks: list[str] = []
        self._raw = RawFile(path)
        try:
            self._index = self._open()
        except BaseException:
            self._raw.close()
            raise
        channels = self._index.channels
        self._parts = {part.at: part for part in self._index.parts}
        self._rows = [part for part in self._index.parts if part.place is None]
        self._chunks = IndexedFile(
            path,
            [part.as_chunk(part.place) for part in self._index.parts if part.place is not None],
            {key: (channel.topic, channel.msgtype) for key, channel in channels.items()},
            self._lose_chunk,
        )
        self.topics = {channel.topic: (channel.msgtype, channel.definition) for channel in channels.values()}
        self.counts: Counter[str] = Counter()
        for part in self._index.parts:
            for channel, count in (part.counts or {}).items():
                self.counts[channels[channel].topic] += count

    def _open(self) -> Index:
        kind, begin = profile(self._raw)
        if kind not in ("", "ros2"):
            raise Unsound(f"its profile is {kind}, not ros2")
        try:
            index = read_index(self._raw)
        except Unsound as error:
            index = walk(self._raw, begin)
            self.remarks.append(f"{self.path.name}: {error}; it was read from the front")
        else:
            if index is None:
                index = walk(self._raw, begin)
        if not index.channels:
            raise Unsound("no topics found in it")
        self.losses += index.losses
        self._check(index)
        return index

    def _check(self, index: Index) -> None:
        parts = index.parts
        self.checked = bool(parts) and all(p.place is not None for p in parts)
        if self.checked and parts[0].place is not None:
            self.checked = has_checksum(self._raw, parts[0].place)
        if not self.checked and index.tail is not None and index.tail.data_crc:
            self.checked = True
            if not data_section_ok(self._raw, index.tail):
                start, end = min(p.start_ns for p in parts), max(p.end_ns for p in parts)
                what = f"{self.path.name}: checksum of the file does not fit, and it has none for its parts"
                self.losses.append(Loss(start, end, None, what))

    def messages(
        self, topics: Collection[str], heads: Collection[str] = (), at: Times = MappingProxyType({})
    ) -> Iterator[Message]:
        """Messages of some topics by log time; a lost chunk is noted in :attr:`losses` and left out.

        Args:
            topics: whose messages to give.
            heads: as for :class:`IndexedFile`.
            at: as for :class:`IndexedFile`.
        """
        wanted = {topic: self.topics[topic][0] for topic in topics if topic in self.topics}
        chunks = self._chunks.messages(wanted, heads, at)
        if not self._rows:
            yield from chunks
            return
        yield from heapq.merge(chunks, self._loose(wanted, at), key=_time)

    def _loose(self, topics: Collection[str], at: Times) -> Iterator[Message]:
        """Messages outside the chunks, row by row."""
        channels = self._index.channels
        wanted = {key for key, channel in channels.items() if channel.topic in topics}
        rows = [row for row in self._rows if row.may_have(wanted)]
        pending: list[Message] = []
        for number, row in enumerate(rows):
            try:
                data = self._raw.read(row.at, row.length)
                for opcode, start, stop in records(data):
                    key, time_ns, begin = message(data, start, stop) if opcode == MESSAGE else (-1, 0, 0)
                    if key in wanted and time_ns in at.get(channels[key].topic, (time_ns,)):
                        channel = channels[key]
                        pending.append(Message(channel.topic, channel.msgtype, time_ns, data[begin:stop]))
            except Unsound as error:
                self._lose(row, error)
                continue
            pending.sort(key=_time)
            if number + 1 < len(rows):
                ready = bisect_left(pending, rows[number + 1].start_ns, key=_time)
                yield from pending[:ready]
                del pending[:ready]
        yield from pending

    def _lose_chunk(self, chunk: ChunkInfo, error: Exception) -> None:
        self._lose(self._parts[chunk.chunk_start_offset], error)

    def _lose(self, part: Part, error: Exception) -> None:
        channels = self._index.channels
        counts = None
        if part.counts is not None:
            counts = Counter[str]()
            for key, count in part.counts.items():
                counts[channels[key].topic] += count
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        loss = Loss(
            part.start_ns, part.end_ns, counts, f"{self.path.name}, chunk at byte {part.at}: {reason}"
        )
        if loss not in self.losses:
            self.losses.append(loss)

    def span(self) -> tuple[int, int] | None:
        """First and last log time [ns]; None without a message."""
        parts = self._index.parts
        return (min(p.start_ns for p in parts), max(p.end_ns for p in parts)) if parts else None

    def close(self) -> None:
        """Close the file."""
        self._chunks.close()
        self._raw.close()


def _time(message: Message) -> int:
    return message.time_ns
