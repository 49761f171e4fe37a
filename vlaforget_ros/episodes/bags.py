"""Opening a rosbag2, whole or damaged, and walking through its messages.

A bag is a folder with metadata.yaml and one or more mcap or sqlite3 files, or one such file. A killed
recorder leaves no metadata.yaml and an mcap file without its end: what is readable is read, and the damage is
reported.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rosbags.interfaces import MessageDefinitionFormat
from rosbags.rosbag2 import Reader
from rosbags.rosbag2.reader import DirectoryReader
from rosbags.rosbag2.storage_mcap import McapReader
from rosbags.typesys import Stores, TypesysError, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from vlaforget_ros.episodes.folders import STORAGE_SUFFIXES
from vlaforget_ros.episodes.indexed import IndexedFile, Times
from vlaforget_ros.episodes.message import Message
from vlaforget_ros.episodes.messages import ADDED_LATER, PACKAGE, typestore
from vlaforget_ros.episodes.salvage import McapSalvage
from vlaforget_ros.episodes.types import Problem
from vlaforget_ros.errors import ErrorCode, UnlearningError

# As `Bag.messages`.
_Walk = Callable[[Collection[str], Collection[str], Times], Iterator[Message]]


@dataclass(frozen=True)
class _Part:
    """One readable file, or a folder that rosbags reads as a whole."""

    topics: dict[str, tuple[str, str]]  # topic to message type and definition
    walk: _Walk
    close: Callable[[], None]
    counts: dict[str, int]  # topic to messages


class Bag:
    """An open bag; use it as a context manager.

    Args:
        path: folder or file.

    Raises:
        UnlearningError: 301 when nothing in it can be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[Problem] = []
        self._parts = self._open()
        self.topics: dict[str, str] = {}
        for part in self._parts:
            self.topics.update({topic: msgtype for topic, (msgtype, _) in part.topics.items()})
        self.store = _store_for(path, (pair for part in self._parts for pair in part.topics.values()))

    def __enter__(self) -> Bag:
        return self

    def __exit__(self, *_: object) -> None:
        for part in self._parts:
            part.close()

    def messages(
        self, topics: Collection[str], heads: Collection[str] = (), at: Times = MappingProxyType({})
    ) -> Iterator[Message]:
        """Messages of some topics, by log time within each file.

        Damage ends a file early and is reported once.

        Args:
            topics: whose messages to give.
            heads: topics among them of whose messages the first bytes are enough; the others may be left unread.
            at: of a topic, the log times [ns] of the messages that matter; others may be left out.
        """
        for part in self._parts:
            walk = part.walk(topics, heads, at)
            while True:
                try:
                    message = next(walk)
                except StopIteration:
                    break
                except Exception as error:
                    # Whatever a damaged file makes the storage layer raise, the messages before it were good.
                    self._damaged(f"reading stopped early: {_clause(error)}")
                    break
                yield message

    def count(self, topics: Collection[str]) -> int:
        """How many messages of some topics there are, as far as the bag knows; for a progress bar."""
        return sum(part.counts.get(topic, 0) for part in self._parts for topic in topics)

    def deserialize(self, message: Message) -> Any:
        """The message as an object of rosbags' typestore. Raises rosbags' SerdeError for damaged bytes."""
        return self.store.deserialize_cdr(message.data, message.msgtype)

    def _open(self) -> list[_Part]:
        if not self.path.exists():
            raise _unreadable(
                self.path, "bag does not exist", "check the path; `ros2 bag info` shows what is there"
            )
        try:
            return [_whole(self.path)]
        except PermissionError as error:
            raise _unreadable(
                self.path, f"bag may not be read: {_clause(error)}", "change its permissions"
            ) from error
        except Exception as error:
            # rosbags meets foreign bytes here and raises whatever they lead to.
            return self._salvage(error)

    def _salvage(self, cause: Exception) -> list[_Part]:
        parts: list[_Part] = []
        for file in _storage_files(self.path):
            try:
                parts.append(_whole(file))
            except Exception as error:
                if file.suffix == ".mcap" and (part := _damaged_mcap(file)).topics:
                    parts.append(part)
                    self._damaged(f"{file.name} was not closed ({_clause(error)}); read up to the damage")
                else:
                    self._damaged(f"{file.name} was left out: {_clause(error)}")
        if not parts:
            raise _unreadable(
                self.path,
                f"bag cannot be read: {_clause(cause)}",
                "record again, or try `ros2 bag reindex` on a copy",
            ) from cause
        if not self.problems:
            self._damaged(f"metadata are missing or wrong ({_clause(cause)}); the files themselves were read")
        return parts

    def _damaged(self, what: str) -> None:
        problem = Problem("bag_damaged", "", 1, what, str(self.path))
        if problem not in self.problems:
            self.problems.append(problem)


def _whole(path: Path) -> _Part:
    reader = Reader(path)
    reader.open()

    files = _indexed(reader)

    def walk(topics: Collection[str], heads: Collection[str], at: Times) -> Iterator[Message]:
        wanted = [c for c in reader.connections if c.topic in topics]
        if not wanted:
            return
        if files is not None:
            for file in files:
                yield from file.messages({c.topic: c.msgtype for c in wanted}, heads, at)
            return
        for connection, time_ns, data in reader.messages(wanted):
            yield Message(connection.topic, connection.msgtype, time_ns, data)

    definitions = {
        c.topic: (c.msgtype, c.msgdef.data if c.msgdef.format != MessageDefinitionFormat.NONE else "")
        for c in reader.connections
    }
    counts: Counter[str] = Counter()
    for connection in reader.connections:
        counts[connection.topic] += connection.msgcount

    def close() -> None:
        reader.close()
        for file in files or ():
            file.close()

    return _Part(definitions, walk, close, counts)


def _indexed(reader: Reader) -> list[IndexedFile] | None:
    """The files of a bag where all of them are mcap with a chunk index; None: rosbags reads them."""
    storage = reader.storage
    if isinstance(storage, DirectoryReader) and storage.metadata.compression_mode == "message":
        return None
    found = []
    for each in storage.storages if isinstance(storage, DirectoryReader) else [storage]:
        if not isinstance(each, McapReader) or not (each.chunks or not each.metadata.message_count):
            return None
        found.append(each)
    return [IndexedFile(each) for each in found]


def _damaged_mcap(path: Path) -> _Part:
    def walk(topics: Collection[str], _: Collection[str], __: Times) -> Iterator[Message]:
        for channel, time_ns, data in McapSalvage(path).messages():
            if channel.topic in topics:
                yield Message(channel.topic, channel.msgtype, time_ns, data)

    survey = McapSalvage(path)
    counts = Counter(channel.topic for channel, _, _ in survey.messages())
    found = {channel.topic: (channel.msgtype, channel.definition) for channel in survey.topics.values()}
    return _Part(found, walk, lambda: None, counts)


def _storage_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if path.suffix in STORAGE_SUFFIXES else []
    return sorted((file for file in path.iterdir() if file.suffix in STORAGE_SUFFIXES), key=_natural)


def _natural(path: Path) -> tuple[int, str]:
    # rosbag2 splits into name_0, name_1, ... name_10.
    tail = path.stem.rpartition("_")[2]
    return (int(tail) if tail.isdigit() else -1, path.name)


def _store_for(path: Path, definitions: Iterable[tuple[str, str]]) -> Typestore:
    """This package's types; the bag's own where it was recorded with other definitions that will do."""
    ours = typestore()
    theirs: dict[str, Any] = {}
    for msgtype, text in definitions:
        if msgtype.startswith(f"{PACKAGE}/") and text:
            parsed = _parse(path, msgtype, text)
            theirs.update({name: fields for name, fields in parsed.items() if name.startswith(f"{PACKAGE}/")})
    for name, (_, fields) in theirs.items():
        lacking = _fields(ours, name) - {field[0] for field in fields} - ADDED_LATER.get(name, frozenset())
        if lacking:
            raise _unreadable(
                path,
                f"bag was recorded with another definition of {name}: it lacks {', '.join(sorted(lacking))}",
                "read it with the version of this package that recorded it",
            )
    if all(len(_fields(ours, name)) == len(fields) for name, (_, fields) in theirs.items()):
        return ours
    store = get_typestore(Stores.ROS2_KILTED)
    store.register(theirs)
    store.register({n: f for n, f in ours.fielddefs.items() if n not in store.fielddefs})
    return store


def _parse(path: Path, msgtype: str, text: str) -> Any:
    try:
        if text.startswith("=" * 80 + "\nIDL: "):
            return get_types_from_idl(text)
        return get_types_from_msg(text, msgtype)
    except TypesysError as error:
        raise _unreadable(
            path, f"bag defines {msgtype} in an unknown way: {_clause(error)}", "record again"
        ) from error


def _fields(store: Typestore, name: str) -> set[str]:
    return {field[0] for field in store.fielddefs[name][1]} if name in store.fielddefs else set()


def _clause(error: BaseException) -> str:
    text = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
    return text[:200]


def _unreadable(path: Path, message: str, remedy: str) -> UnlearningError:
    return UnlearningError(
        ErrorCode.UNLEARNING_BAG_UNREADABLE,
        message,
        value=str(path),
        limit="a rosbag2 folder, or a .mcap or .db3 file",
        remedy=remedy,
    )
