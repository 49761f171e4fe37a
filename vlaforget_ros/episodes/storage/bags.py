"""Opening a rosbag2, whole or damaged, and walking through its messages.

A bag is a folder with metadata.yaml and one or more mcap or sqlite3 files, or one such file. A killed recorder leaves
no metadata.yaml and an mcap file without its end, a bad disk flips bits: what is sound is read, what is lost has
its time and, where the index knows, its number.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any, Protocol

from rosbags.typesys.store import Typestore

from vlaforget_ros.episodes.folders import storage_of
from vlaforget_ros.episodes.messages import typestore
from vlaforget_ros.episodes.storage.bag_folder import BagFolder, bag_folder
from vlaforget_ros.episodes.storage.bag_types import BagTypes, unreadable
from vlaforget_ros.episodes.storage.indexed import Times
from vlaforget_ros.episodes.storage.losses import NEVER_NS, Hole, Loss, hole_in
from vlaforget_ros.episodes.storage.mcap_source import McapSource
from vlaforget_ros.episodes.storage.message import Message
from vlaforget_ros.episodes.storage.packing import ZSTD_MAGIC, unpack_file, unpack_message
from vlaforget_ros.episodes.storage.sqlite_source import SqliteSource
from vlaforget_ros.episodes.types import Problem


class Source(Protocol):
    """One open file of a bag."""

    topics: dict[str, tuple[str, str]]
    losses: list[Loss]
    remarks: list[str]
    checked: bool

    @property
    def counts(self) -> dict[str, int]:
        """Topic to messages."""

    def messages(
        self, topics: Collection[str], heads: Collection[str] = (), at: Times = MappingProxyType({})
    ) -> Iterator[Message]:
        """Messages of some topics by log time; the rest as :meth:`Bag.messages`."""

    def span(self) -> tuple[int, int] | None:
        """First and last log time [ns]; None without a message."""

    def close(self) -> None:
        """Close the file."""


class Bag:
    """An open bag; use it as a context manager.

    Args:
        path: folder or file.

    Attributes:
        topics: topic to message type.

    Raises:
        UnlearningError: 301 when nothing in it can be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._remarks: list[str] = []
        self._losses: list[Loss] = []
        self._broken = 0
        self._stack = ExitStack()
        with ExitStack() as stack:
            self._sources = self._open(stack)
            definitions: dict[str, str] = {}
            self.topics: dict[str, str] = {}
            for source in self._sources:
                for topic, (msgtype, text) in source.topics.items():
                    self.topics[topic] = msgtype
                    definitions[msgtype] = definitions.get(msgtype) or text
            self._types = BagTypes(path, definitions)
            self._stack = stack.pop_all()

    def __enter__(self) -> Bag:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files; closing twice is fine."""
        self._stack.close()

    @property
    def checked(self) -> bool:
        """Whether checksums cover every message: without them a flipped bit inside a message is not seen."""
        return all(source.checked for source in self._sources)

    @property
    def losses(self) -> list[Loss]:
        """What is lost; complete once the topics of interest were read."""
        return [*self._losses, *(loss for source in self._sources for loss in source.losses)]

    @property
    def problems(self) -> list[Problem]:
        """What is wrong with the bag; complete once the topics of interest were read."""
        remarks = [*self._remarks, *(remark for source in self._sources for remark in source.remarks)]
        found = [Problem("bag_damaged", "", 1, remark, str(self.path)) for remark in remarks]
        if self._broken:
            text = f"{self._broken} messages cannot be unpacked"
            found.append(Problem("messages_broken", "", self._broken, text, str(self.path)))
        for loss in self.losses:
            if not loss.is_cut:
                count = None if loss.counts is None else sum(loss.counts.values())
                text = f"{'unknown number of' if count is None else count} messages lost: {loss.what}"
                found.append(Problem("messages_lost", "", count or 1, text, str(self.path)))
        return found

    def hole(self, topics: Collection[str], start_ns: int, end_ns: int) -> Hole | None:
        """What is lost of some topics in a span of log time; ask when they were read."""
        return hole_in(self.losses, topics, start_ns, end_ns)

    def messages(
        self, topics: Collection[str], heads: Collection[str] = (), at: Times = MappingProxyType({})
    ) -> Iterator[Message]:
        """Messages of some topics, by log time within each file; what is damaged is left out and noted.

        Args:
            topics: whose messages to give.
            heads: topics among them of whose messages the first bytes are enough; the others may be left unread.
            at: of a topic, the log times [ns] of the messages that matter; others may be left out.
        """
        for source in self._sources:
            packed = bool(heads) and self._is_packed(source)
            for message in source.messages(topics, () if packed else heads, at):
                if bytes(message.data[:4]) != ZSTD_MAGIC:
                    yield message
                    continue
                try:
                    yield message._replace(data=unpack_message(bytes(message.data)))
                except ValueError:
                    self._broken += 1

    @staticmethod
    def _is_packed(source: Source) -> bool:
        """Whether messages were compressed one by one: the first bytes of such a one say nothing."""
        first = next(iter(source.messages(source.topics)), None)
        return first is not None and bytes(first.data[:4]) == ZSTD_MAGIC

    def count(self, topics: Collection[str]) -> int:
        """How many messages of some topics there are, as far as the bag knows; for a progress bar."""
        return sum(source.counts.get(topic, 0) for source in self._sources for topic in topics)

    def deserialize(self, message: Message) -> Any:
        """The message as an object of rosbags' typestore.

        Raises:
            SerdeError: its bytes are damaged.
            UnlearningError: 301 when neither the bag nor this package defines its type.
        """
        return self._types.deserialize(message.data, message.msgtype)

    def fields(self, msgtype: str) -> tuple[tuple[str, Any], ...]:
        """Names and types of a message type's fields, as rosbags has them. Raises UnlearningError 301."""
        return tuple(self._types.store(msgtype).fielddefs[msgtype][1])

    @property
    def store(self) -> Typestore:
        """Types of ROS 2 and of this package; :meth:`fields` also knows those that the bag defines itself."""
        return typestore()

    def _open(self, stack: ExitStack) -> list[Source]:
        if not self.path.exists():
            raise unreadable(
                self.path, "bag does not exist", "check the path; `ros2 bag info` shows what is there"
            )
        try:
            folder = bag_folder(self.path)
            opened = [self._opened(file, stack) for file in folder.files]
        except PermissionError as error:
            raise unreadable(
                self.path, f"bag may not be read: {_clause(error)}", "change its permissions"
            ) from error
        sources = [source for source in opened if source is not None]
        if not sources:
            raise unreadable(
                self.path,
                f"bag cannot be read: {_reason(folder, self._remarks)}",
                "record again, or try `ros2 bag reindex` on a copy",
            )
        self._between(opened)
        if folder.wrong and not (self._remarks or any(source.remarks for source in sources)):
            self._remarks.append(f"{folder.wrong}; the files themselves were read")
        return sources

    def _opened(self, file: Path, stack: ExitStack) -> Source | None:
        if not file.is_file():
            self._remarks.append(f"{file.name} is missing")
            return None
        try:
            plain = file
            if file.name.endswith(".zstd"):
                plain, wrong = unpack_file(
                    file, Path(stack.enter_context(TemporaryDirectory(prefix="vlaforget-bag-")))
                )
                if wrong:
                    self._remarks.append(f"{file.name}: {wrong}; read up to there")
            source: Source = McapSource(plain) if storage_of(file) == ".mcap" else SqliteSource(plain)
        except ValueError as error:
            self._remarks.append(f"{file.name} was left out: {_clause(error)}")
            return None
        stack.callback(source.close)
        return source

    def _between(self, opened: list[Source | None]) -> None:
        """A file that ends too early, or was left out, makes a hole when another one follows."""
        for number, source in enumerate(opened[:-1]):
            cuts = [loss for loss in source.losses if loss.is_cut] if source is not None else []
            if source is not None and not cuts:
                continue
            before = [span for each in opened[: number + 1] if each is not None and (span := each.span())]
            after = [span for each in opened[number + 1 :] if each is not None and (span := each.span())]
            start = max((last for _, last in before), default=0)
            end = min((first for first, _ in after), default=NEVER_NS)
            what = cuts[0].what if cuts else "a file of the bag is missing or was left out"
            self._losses.append(Loss(start + 1, max(start + 1, end - 1), None, what))


def _reason(folder: BagFolder, remarks: list[str]) -> str:
    return "; ".join(remarks) or folder.wrong or "no storage file"


def _clause(error: BaseException) -> str:
    text = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
    return text[:200]
