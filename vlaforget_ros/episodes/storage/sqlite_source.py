"""Messages of one sqlite3 file, whole or damaged.

sqlite3 has no checksums: a flipped bit inside a message is not seen, only one in the structure around it. A recorder
that died may have left a journal or a write-ahead log beside the file; sqlite brings such a file into order itself, in
a copy. What it cannot read is read page by page (:mod:`sqlite_pages`).
"""

from __future__ import annotations

import shutil
import sqlite3
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from urllib.parse import quote

from vlaforget_ros.episodes.storage.indexed import Times
from vlaforget_ros.episodes.storage.losses import Loss
from vlaforget_ros.episodes.storage.message import Message
from vlaforget_ros.episodes.storage.sqlite_pages import BadPages, Pages
from vlaforget_ros.episodes.storage.sqlite_salvage import Salvaged, salvage


class SqliteSource:
    """An open sqlite3 file.

    Attributes:
        topics: topic to message type and definition text, "" where the file has none.
        counts: topic to messages.
        losses: what is lost.
        remarks: what is wrong with the file as such, one line each.
        checked: never: the format has no checksums.

    Raises:
        BadPages: it is no such file, or nothing of it can be read.
    """

    checked = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self.losses: list[Loss] = []
        self.remarks: list[str] = []
        self._copy: TemporaryDirectory[str] | None = None
        self._salvaged: Salvaged | None = None
        self._database: sqlite3.Connection | None = None
        self._ids: dict[int, tuple[str, str]] = {}
        try:
            self._open()
        except sqlite3.Error as error:
            self._salvage(str(error))

    def _open(self) -> None:
        file, mode = self.path, "immutable=1"
        beside = [Path(f"{self.path}{end}") for end in ("-wal", "-journal")]
        left = [each for each in beside if each.is_file() and each.stat().st_size]
        if left:
            self._copy = TemporaryDirectory(prefix="vlaforget-bag-")
            for each in (self.path, *left):
                shutil.copy(each, self._copy.name)
            file, mode = Path(self._copy.name) / self.path.name, "mode=rw"
            self.remarks.append(f"{self.path.name} was not closed; sqlite used {left[0].name} beside it")
        self._database = sqlite3.connect(f"file:{quote(str(file))}?{mode}", uri=True)
        definitions = self._definitions()
        for key, name, msgtype in self._database.execute("SELECT id, name, type FROM topics"):
            self._ids[key] = (name, msgtype)
        self.topics = {name: (msgtype, definitions.get(msgtype, "")) for name, msgtype in self._ids.values()}
        self.counts: Counter[str] = Counter()
        counted = "SELECT topic_id, COUNT(*) FROM messages NOT INDEXED GROUP BY topic_id"
        for key, count in self._database.execute(counted):
            if key in self._ids:
                self.counts[self._ids[key][0]] += count
        self._require_all_pages()

    def _require_all_pages(self) -> None:
        pages = Pages(self.path) if self._copy is None else None
        if pages is not None:
            pages.close()
            if pages.count < pages.declared:
                raise sqlite3.DatabaseError("file is too short")

    def _definitions(self) -> dict[str, str]:
        if self._database is None:
            return {}
        tables = self._database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        names = {name for (name,) in tables}
        if not {"topics", "messages"} <= names:
            raise sqlite3.DatabaseError("it has no tables of a rosbag2")
        if "message_definitions" not in names:
            return {}
        rows = self._database.execute(
            "SELECT topic_type, encoded_message_definition FROM message_definitions"
        )
        return {msgtype: text or "" for msgtype, text in rows}

    def _salvage(self, cause: str) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None
        self._salvaged = salvage(self.path)
        if not self._salvaged.topics:
            self._salvaged.close()
            raise BadPages(f"{cause}; no topics found in its pages")
        self.topics = dict(self._salvaged.topics.values())
        self.counts = self._salvaged.counts()
        self.remarks.append(f"{self.path.name}: {cause}; read page by page")
        self.losses += self._salvaged.losses(self.path.name)

    def messages(
        self, topics: Collection[str], heads: Collection[str] = (), at: Times = MappingProxyType({})
    ) -> Iterator[Message]:
        """Messages of some topics by log time, always whole.

        Args:
            topics: whose messages to give.
            heads: nothing is gained by it here.
            at: of a topic, the log times [ns] of the messages that matter.
        """
        given: set[int] = set()
        if self._database is not None:
            try:
                yield from self._by_number(topics, at, given)
                return
            except sqlite3.Error as error:
                self._salvage(str(error))
        if self._salvaged is not None:
            left = (m for n, m in self._salvaged.messages(topics) if n not in given)
            yield from (m for m in left if m.time_ns in at.get(m.topic, (m.time_ns,)))

    def _by_number(self, topics: Collection[str], at: Times, given: set[int]) -> Iterator[Message]:
        """Each message by its row: the index of times is not asked, it may be damaged without anybody noticing."""
        database, wanted = self._database, [key for key, (name, _) in self._ids.items() if name in topics]
        if database is None or not wanted:
            return
        marks = ",".join("?" * len(wanted))
        listing = f"SELECT timestamp, id, topic_id FROM messages NOT INDEXED WHERE topic_id IN ({marks})"
        rows = sorted(database.execute(listing, wanted).fetchall())
        for time_ns, number, key in rows:
            if time_ns not in at.get(self._ids[key][0], (time_ns,)):
                continue
            found = database.execute("SELECT data FROM messages WHERE id = ?", (number,)).fetchone()
            if found is None:
                raise sqlite3.DatabaseError(f"row {number} is gone")
            given.add(number)
            yield Message(*self._ids[key], time_ns, found[0])

    def span(self) -> tuple[int, int] | None:
        """First and last log time [ns]; None without a message."""
        if self._database is None:
            return self._salvaged.span() if self._salvaged is not None else None
        query = "SELECT MIN(timestamp), MAX(timestamp) FROM messages NOT INDEXED"
        first, last = self._database.execute(query).fetchone()
        return None if first is None else (first, last)

    def close(self) -> None:
        """Close the file, and remove its copy."""
        if self._database is not None:
            self._database.close()
        if self._salvaged is not None:
            self._salvaged.close()
        if self._copy is not None:
            self._copy.cleanup()
