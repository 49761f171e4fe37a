"""Messages of one mcap file, whole or damaged: every chunk on its own, each with its checksum.

A closed file is read by the index at its end, whose own checksum is looked at first. A file without a sound index is
walked from the front once, which finds every chunk and every message; behind damage the walk goes on at the next chunk
that is sound. Either way a chunk that does not fit its checksum is lost as a whole, and the others are read.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from vlaforget_ros.episodes.losses import Loss
from vlaforget_ros.episodes.mcap_index import Index, Part, read_index
from vlaforget_ros.episodes.mcap_layout import RawFile, data_section_ok, has_checksum, profile, unpacked
from vlaforget_ros.episodes.mcap_records import MESSAGE, Unsound, message, records
from vlaforget_ros.episodes.mcap_walk import walk


@dataclass(frozen=True)
class Message:
    """One message: topic, its type, log time [ns] and CDR bytes."""

    topic: str
    msgtype: str
    time_ns: int
    data: bytes


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

    def messages(self, topics: Collection[str]) -> Iterator[Message]:
        """Messages of some topics by log time; a lost chunk is noted in :attr:`losses` and left out."""
        channels = self._index.channels
        wanted = {key for key, channel in channels.items() if channel.topic in topics}
        parts = [part for part in self._index.parts if part.may_have(wanted)]
        pending: list[Message] = []
        for number, part in enumerate(parts):
            try:
                found = self._decoded(part, wanted)
            except Unsound as error:
                self._lose(part, error)
                continue
            pending = sorted(pending + found, key=_time)
            if number + 1 < len(parts):
                ready = bisect_left(pending, parts[number + 1].start_ns, key=_time)
                yield from pending[:ready]
                del pending[:ready]
        yield from pending

    def _decoded(self, part: Part, wanted: Collection[int]) -> list[Message]:
        """All of a part, or Unsound: half a chunk whose second half is wrong is not to be trusted."""
        channels = self._index.channels
        data = self._raw.read(part.at, part.length) if part.place is None else unpacked(self._raw, part.place)
        found: list[Message] = []
        seen = 0
        for opcode, start, stop in records(data):
            if opcode != MESSAGE:
                continue
            key, time_ns, begin = message(data, start, stop)
            seen += 1
            if key in wanted:
                channel = channels[key]
                found.append(Message(channel.topic, channel.msgtype, time_ns, data[begin:stop]))
            elif key not in channels:
                raise Unsound(f"chunk at {part.at}: message of an unknown channel {key}")
        if part.counts is not None and seen != sum(part.counts.values()):
            raise Unsound(f"chunk at {part.at}: {seen} messages where the index has {sum(part.counts.values())}")
        return found

    def _lose(self, part: Part, error: Unsound) -> None:
        channels = self._index.channels
        counts = None
        if part.counts is not None:
            counts = Counter[str]()
            for key, count in part.counts.items():
                counts[channels[key].topic] += count
        loss = Loss(part.start_ns, part.end_ns, counts, f"{self.path.name}: {error}")
        if loss not in self.losses:
            self.losses.append(loss)

    def span(self) -> tuple[int, int] | None:
        """First and last log time [ns]; None without a message."""
        parts = self._index.parts
        return (min(p.start_ns for p in parts), max(p.end_ns for p in parts)) if parts else None

    def close(self) -> None:
        """Close the file."""
        self._raw.close()


def _time(message: Message) -> int:
    return message.time_ns
