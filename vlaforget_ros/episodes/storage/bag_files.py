"""A rosbag2 folder of one file or of several: files are begun and ended here, metadata.yaml comes last.

rosbags' Writer knows topics, types and counts, but only one file. Like the recorder of rosbag2, this one numbers its
files (name_0, name_1 ...), begins a new one when the present one is large or long enough, defines every known topic in
it anew, and lists all files in one metadata.yaml. That is written when the bag is closed, never before: a list without
the last file would hide it from every reader, no list makes readers look.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any, Literal

from rosbags.interfaces import Connection
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.rosbag2.errors import WriterError
from rosbags.rosbag2.metadata import dump_qos_v9
from ruamel.yaml import YAML

from vlaforget_ros.episodes.messages import still_holds
from vlaforget_ros.episodes.storage.storages import (
    Compression,
    McapFile,
    Sqlite3File,
    StorageFile,
    extension,
    ros_distro,
    sync,
)

Storage = Literal["mcap", "sqlite3"]

_PLUGINS = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}
_SUFFIXES = {"mcap": "mcap", "sqlite3": "db3"}
_NEVER = 2**63 - 1


@dataclass
class _Span:
    """What lies in a file, or in all of them."""

    name: str = ""
    start_ns: int = _NEVER
    end_ns: int = 0
    counts: dict[int, int] = field(default_factory=dict)

    def add(self, connection: int, time_ns: int) -> None:
        self.start_ns, self.end_ns = min(self.start_ns, time_ns), max(self.end_ns, time_ns)
        self.counts[connection] = self.counts.get(connection, 0) + 1

    def described(self) -> dict[str, Any]:
        return {
            "starting_time": {"nanoseconds_since_epoch": self.start_ns},
            "duration": {"nanoseconds": max(0, self.end_ns - self.start_ns)},
            "message_count": sum(self.counts.values()),
        }


class BagFiles(Writer):
    """Writes a new bag. Not thread-safe.

    Args:
        path: folder to create.
        storage: ``mcap`` or ``sqlite3``.
        compression: of mcap's chunks.
        split_bytes: size after which a new file begins, 0 for never.
        split_ns: log time after which a new file begins, 0 for never.

    Raises:
        WriterError: the folder exists.
    """

    def __init__(
        self,
        path: Path,
        storage: Storage = "mcap",
        compression: Compression = "none",
        split_bytes: int = 0,
        split_ns: int = 0,
    ) -> None:
        super().__init__(path, version=Writer.VERSION_LATEST, storage_plugin=_PLUGINS[storage])
        self._kind = storage
        self._compression = compression
        self._split_bytes, self._split_ns = split_bytes, split_ns
        self._files: list[_Span] = []
        self._closed_bytes = 0
        self._newest: dict[int, bytes] = {}
        self._repeated: set[int] = set()
        self.repeats = 0

    @property
    def file(self) -> StorageFile:
        """The present file. Raises WriterError when the bag is not open."""
        if self.storage is None:
            raise WriterError("Bag was not opened.")
        return self.storage  # type: ignore[return-value]

    @property
    def names(self) -> list[str]:
        """Names of the files so far."""
        return [file.name for file in self._files]

    @property
    def size_bytes(self) -> int:
        """Size of all files so far."""
        # Another thread may ask while a file is ended.
        present: Any = self.storage
        return self._closed_bytes + (present.size() if present is not None else 0)

    def open(self) -> None:
        """Make folder and first file. Raises WriterError where the folder exists, OSError where it cannot be."""
        try:
            self.path.mkdir(mode=0o755, parents=True)
        except FileExistsError:
            raise WriterError(f"{self.path} exists already, not overwriting.") from None
        self._begin()

    def repeat(self, connection: Connection) -> None:
        """Say a topic's newest message again at the head of every further file, logged at the file's first moment."""
        self._repeated.add(connection.id)

    def write(self, connection: Connection, timestamp: int, data: bytes | memoryview) -> None:
        """Append a message, to a new file where the present one is full. Raises OSError when the disk is full."""
        begins = self._full(timestamp)
        if begins:
            self._split(timestamp)
        super().write(connection, timestamp, data)
        self._files[-1].add(connection.id, timestamp)
        if begins:
            # After a kill `ros2 bag reindex` gives up the whole bag where one file is not yet on the disk.
            self.file.flush()
        if connection.id in self._repeated:
            self._newest.pop(connection.id, None)
            if still_holds(connection.msgtype, bytes(data)):
                self._newest[connection.id] = bytes(data)

    def close(self) -> None:
        """End the last file and write metadata.yaml. Raises OSError when the disk is full."""
        self._end()
        text = _yaml({"rosbag2_bagfile_information": self._metadata(self._files)})
        temporary = self.metapath.with_suffix(".yaml.tmp")
        temporary.write_text(text, encoding="utf-8")
        sync(temporary)
        temporary.replace(self.metapath)
        sync(self.path)

    def _full(self, time_ns: int) -> bool:
        present = self._files[-1]
        if not present.counts:
            return False
        too_long = 0 < self._split_ns <= time_ns - present.start_ns
        return too_long or 0 < self._split_bytes <= self.file.size()

    def _begin(self) -> None:
        # The first of one is numbered too: `ros2 bag reindex` looks for no other names.
        file = self.path / f"{self.path.name}_{len(self._files)}.{_SUFFIXES[self._kind]}"
        self.storage = McapFile(file, self._compression) if self._kind == "mcap" else Sqlite3File(file)
        self._files.append(_Span(file.name))
        for connection in self.connections:
            self._define(connection)

    def _split(self, time_ns: int) -> None:
        self._end()
        self._begin()
        for number, data in self._newest.items():
            connection = self.connections[number - 1]
            super().write(connection, time_ns, data)
            self._files[-1].add(number, time_ns)
            self.repeats += 1

    def _define(self, connection: Connection) -> None:
        if connection.msgtype not in {c.msgtype for c in self.connections[: connection.id - 1]}:
            self.file.add_msgtype(connection)
        self.file.add_connection(
            connection, _yaml(dump_qos_v9(extension(connection).offered_qos_profiles)).strip()
        )

    def _end(self) -> None:
        file = self.file
        try:
            # A file alone says what it holds.
            file.close(self.version, _yaml(self._metadata(self._files[-1:])).strip())
        finally:
            self.storage = None
        self._closed_bytes += file.path.stat().st_size

    def _metadata(self, files: list[_Span]) -> dict[str, Any]:
        whole = _Span()
        for file in files:
            whole.start_ns, whole.end_ns = min(whole.start_ns, file.start_ns), max(whole.end_ns, file.end_ns)
            for connection, count in file.counts.items():
                whole.counts[connection] = whole.counts.get(connection, 0) + count
        return {
            "version": self.version,
            "storage_identifier": self._kind,
            "relative_file_paths": [file.name for file in files],
            **whole.described(),
            "topics_with_message_count": [
                {"topic_metadata": _topic(c), "message_count": whole.counts.get(c.id, 0)}
                for c in self.connections
            ],
            # Of whole files or single messages; chunks of mcap say it themselves.
            "compression_format": "",
            "compression_mode": "",
            "files": [{"path": file.name, **file.described()} for file in files],
            "custom_data": None,
            "ros_distro": ros_distro(),
        }


def _topic(connection: Connection) -> dict[str, Any]:
    return {
        "name": connection.topic,
        "type": connection.msgtype,
        "serialization_format": extension(connection).serialization_format,
        "offered_qos_profiles": dump_qos_v9(extension(connection).offered_qos_profiles),
        "type_description_hash": connection.digest,
    }


def _yaml(value: Any) -> str:
    yaml = YAML(typ="safe")
    yaml.default_flow_style = False
    stream = StringIO()
    yaml.dump(value, stream)
    return stream.getvalue()
