"""Storage files of a bag: what rosbags writes, with a name of our choice, a checksum of each chunk, and a size.

rosbags names its one file after the folder and leaves the checksum of a chunk at 0, which means "not checked". A
split bag has several files, and evidence shall show its own damage: so both are done here.
"""

from __future__ import annotations

import os
import sqlite3
import sys
from collections import defaultdict
from functools import partial
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Literal, Protocol

from isal.isal_zlib import crc32

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

from rosbags.interfaces import Connection, ConnectionExtRosbag2
from rosbags.rosbag2.errors import WriterError
from rosbags.rosbag2.storage_mcap import (
    Channel,
    McapWriter,
    PendingChunk,
    write_channel,
    write_record,
    write_string,
)
from rosbags.rosbag2.storage_sqlite3 import Sqlite3Writer

Compression = Literal["none", "zstd"]

ZSTD_LEVEL = 1
"""The fastest of the usual ones: what a camera's noise leaves to save, it saves."""

_MAGIC = b"\x89MCAP0\r\n"
_HEADER = 0x01
_NEVER = 2**63 - 1
# Of a chunk record: opcode and length, then start, end and size of what is in it; the checksum follows.
_BEFORE_CHECKSUM = 9 + 24
# Of the end of a file: begin of the index and of its offsets, its checksum, the magic number.
_FOOTER, _BEHIND_CHECKSUM = 8 + 8 + 4 + len(_MAGIC), 4 + len(_MAGIC)


class StorageFile(Protocol):
    """One file of a bag."""

    path: Path

    def add_msgtype(self, connection: Connection) -> None:
        """Define a message type."""

    def add_connection(self, connection: Connection, offered_qos_profiles: str) -> None:
        """Define a topic."""

    def write(self, connection: Connection, timestamp: int, data: bytes | memoryview) -> None:
        """Append a message."""

    def size(self) -> int:
        """Bytes that the file has or will have when what was written is on the disk; about."""

    def flush(self) -> None:
        """Put what was written on the disk, where the format can."""

    def close(self, version: int, metadata: str) -> None:
        """Write the end of the file."""

    def abort(self) -> None:
        """Close without an end."""


class McapFile(McapWriter):
    """An mcap file with checksums.

    Args:
        path: file to create.
        compression: of its chunks.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, path: Path, compression: Compression) -> None:
        # The base class would choose the name.
        self.path = path
        self.bio = path.open("xb")
        self.bio.write(_MAGIC)
        record = BytesIO()
        write_string(record, "ros2")
        write_string(record, f"rosbags-{version('rosbags')}")
        write_record(self.bio, _HEADER, record)
        self.schemas = []
        self.channels = []
        self.chunks = []
        self.chunk = PendingChunk(_NEVER, 0, BytesIO(), defaultdict(list))
        self.compression = "zstd" if compression == "zstd" else ""
        self.compressor = partial(zstd.compress, level=ZSTD_LEVEL) if compression == "zstd" else bytes
        self.message_start_time = _NEVER
        self.message_end_time = 0
        self.channel_stats = {}
        self._written = self.bio.tell()

    def add_connection(self, connection: Connection, offered_qos_profiles: str) -> None:
        """Define a topic, with the hash of its type, which `ros2 bag reindex` finds nowhere else."""
        metadata = BytesIO()
        for text in (
            "offered_qos_profiles",
            offered_qos_profiles,
            "topic_type_hash",
            connection.digest,
        ):
            write_string(metadata, text)
        encoding = extension(connection).serialization_format
        channel = Channel(connection.id, connection.msgtype, connection.topic, encoding, metadata.getvalue())
        self.channels.append(channel)
        self.channel_stats[connection.id] = 0
        write_channel(self.chunk.bio, channel, self.schemas)

    def close_chunk(self) -> None:
        """Write the pending chunk, with its checksum."""
        checksum = crc32(self.chunk.bio.getbuffer())
        start = self.bio.tell()
        super().close_chunk()
        self._written = self.bio.tell()
        self.bio.seek(start + _BEFORE_CHECKSUM)
        self.bio.write(checksum.to_bytes(4, "little"))
        self.bio.seek(self._written)

    def size(self) -> int:
        """Bytes on the disk, and those of the pending chunk as if they did not compress."""
        return self._written + self.chunk.bio.tell()

    def flush(self) -> None:
        """Write the pending chunk and sync."""
        if self.chunk.msgs:
            self.close_chunk()
        self.bio.flush()
        os.fsync(self.bio.fileno())

    def close(self, version: int, metadata: str) -> None:
        """Write index and end, and sync."""
        super().close(version, metadata)
        self._seal()
        sync(self.path)

    def _seal(self) -> None:
        """A checksum of the index: rosbags leaves that at 0 as well. Until then the file is whole without it."""
        with self.path.open("r+b") as file:
            file.seek(-_FOOTER, os.SEEK_END)
            file.seek(int.from_bytes(file.read(8), "little"))
            checksum = crc32(file.read()[:-_BEHIND_CHECKSUM])
            file.seek(-_BEHIND_CHECKSUM, os.SEEK_END)
            file.write(checksum.to_bytes(4, "little"))


class Sqlite3File(Sqlite3Writer):
    """An sqlite3 file; it is committed as a whole when it is closed.

    Args:
        path: file to create.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        # The base class would choose the name.
        path.touch(exist_ok=False)
        self.path = path
        self.conn = sqlite3.connect(path, check_same_thread=False)
        self.conn.executescript(self.SQLITE_SCHEMA)
        self.conn.execute("UPDATE schema SET ros_distro = ?", (ros_distro(),))
        self.conn.commit()
        self.cursor = self.conn.cursor()
        self._bytes = 0

    def write(self, connection: Connection, timestamp: int, data: bytes | memoryview) -> None:
        """Append a message. Raises OSError like any other file: a full disk is one."""
        try:
            super().write(connection, timestamp, data)
        except sqlite3.OperationalError as error:
            raise OSError(str(error)) from error
        self._bytes += len(data)

    def size(self) -> int:
        """Bytes of the messages."""
        return self._bytes

    def flush(self) -> None:
        """Nothing: half a transaction helps nobody."""

    def close(self, version: int, metadata: str) -> None:
        """Commit and sync."""
        try:
            super().close(version, metadata)
        except sqlite3.OperationalError as error:
            raise OSError(str(error)) from error
        sync(self.path)


def ros_distro() -> str:
    """Distribution of ROS that this process runs in, as rosbag2's recorder says it; empty where none is set."""
    return os.environ.get("ROS_DISTRO", "")


def extension(connection: Connection) -> ConnectionExtRosbag2:
    """What rosbag2 knows of a topic besides its type. Raises WriterError for a topic of another format."""
    if not isinstance(connection.ext, ConnectionExtRosbag2):
        raise WriterError(f"{connection.topic} is not a topic of a rosbag2.")
    return connection.ext


def sync(path: Path) -> None:
    """Have the disk keep a file, or a folder's list of files."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
