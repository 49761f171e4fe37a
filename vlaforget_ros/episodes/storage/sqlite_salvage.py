"""Topics and messages of a damaged rosbag2 database, told apart by the columns of their rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from vlaforget_ros.episodes.storage.losses import NEVER_NS, Loss
from vlaforget_ros.episodes.storage.message import Message
from vlaforget_ros.episodes.storage.sqlite_pages import Pages, Row, kinds, values

_BLOB = 12


@dataclass
class _Entry:
    """A message: when, of which topic, and where."""

    time_ns: int
    topic: int
    row: Row


@dataclass
class Salvaged:
    """What the pages of a file still hold.

    Attributes:
        topics: number of a topic to its name, and its message type with the definition.
    """

    pages: Pages
    topics: dict[int, tuple[str, tuple[str, str]]]
    _entries: dict[int, _Entry]

    def counts(self) -> Counter[str]:
        """Topic to messages."""
        return Counter(self.topics[e.topic][0] for e in self._entries.values())

    def span(self) -> tuple[int, int] | None:
        """First and last log time [ns]; None without a message."""
        times = [entry.time_ns for entry in self._entries.values()]
        return (min(times), max(times)) if times else None

    def messages(self, topics: Collection[str]) -> Iterator[tuple[int, Message]]:
        """Number and message, by log time."""
        wanted = {key for key, (name, _) in self.topics.items() if name in topics}
        chosen = [(e.time_ns, n) for n, e in self._entries.items() if e.topic in wanted]
        for time_ns, number in sorted(chosen):
            entry = self._entries[number]
            columns = values(self.pages.payload(entry.row))
            if columns is not None and isinstance(columns[-1], bytes):
                name, (msgtype, _) = self.topics[entry.topic]
                yield number, Message(name, msgtype, time_ns, columns[-1])

    def losses(self, name: str) -> list[Loss]:
        """Rows are numbered one after the other: which numbers are missing, and whether the end is."""
        numbers = sorted(self._entries)
        found = []
        last = 0
        for number, before in zip(numbers, [0, *numbers], strict=False):
            if number - before > 1:
                start = self._entries[before].time_ns if before else 0
                what = f"{name}: messages {before + 1} to {number - 1} are damaged"
                found.append(Loss(start, self._entries[number].time_ns, None, what))
            last = max(last, self._entries[number].time_ns)
        if self.pages.count < self.pages.declared:
            found.append(Loss(last, NEVER_NS, None, f"{name}: the file is too short"))
        return found

    def close(self) -> None:
        """Close the file."""
        self.pages.close()


def salvage(path: Path) -> Salvaged:
    """Read every page of a file once; messages themselves are read later.

    Raises:
        BadPages: it is no sqlite3 file.
    """
    pages = Pages(path)
    topics: dict[int, tuple[str, str]] = {}
    definitions: dict[str, str] = {}
    entries: dict[int, _Entry] = {}
    claims = Counter[int]()
    for row, local in pages.rows():
        shape = kinds(local)
        chain = pages.chain(row)
        if not shape or shape[0] != 0 or chain is None:
            continue
        if len(shape) == 4 and shape[3] >= _BLOB and shape[3] % 2 == 0:
            columns = values(local, partial=bool(row.overflow))
            if columns is not None and isinstance(columns[1], int) and isinstance(columns[2], int):
                entries.setdefault(row.number, _Entry(columns[2], columns[1], row))
                claims.update(chain)
            continue
        columns = values(pages.payload(row))
        if columns is None or len(columns) < 4:
            continue
        if columns[3] == "cdr":
            topics[row.number] = (str(columns[1]), str(columns[2]))
        elif columns[2] in ("ros2msg", "ros2idl"):
            definitions[str(columns[1])] = str(columns[3])
    sound = {
        number: entry
        for number, entry in entries.items()
        if entry.topic in topics and all(claims[page] == 1 for page in pages.chain(entry.row) or ())
    }
    named = {k: (name, (msgtype, definitions.get(msgtype, ""))) for k, (name, msgtype) in topics.items()}
    return Salvaged(pages, named, sound)
