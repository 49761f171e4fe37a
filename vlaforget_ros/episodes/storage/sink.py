"""Recording: message bytes, as they come from the wire, to rosbag2.

Crash safety, as far as the format allows: messages are gathered in chunks, and a flush writes the present
chunk and syncs it to the disk. A recorder that is killed loses what came after its last flush. Its mcap file
has no summary and no metadata.yaml then; :func:`read_episodes` reads it all the same, ``ros2 bag reindex``
makes it whole for other tools. An sqlite3 bag is committed as a whole when it is closed: prefer mcap.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from rosbags.interfaces import Connection, Qos, QosDurability
from rosbags.rosbag2.errors import WriterError

from vlaforget_ros.episodes.messages import recorded_qos, typestore
from vlaforget_ros.episodes.storage.bag_files import BagFiles, Storage
from vlaforget_ros.episodes.storage.storages import Compression
from vlaforget_ros.errors import ErrorCode, UnlearningError, did_you_mean

_MEGABYTE = 1_000_000
_NANOSECONDS = 1_000_000_000


class BagSink:
    """Writes serialized messages into one new rosbag2. Every method may be called from any thread.

    Args:
        path: folder to create; it must not exist.
        storage: ``mcap`` or ``sqlite3``.
        compression: ``none`` or ``zstd``, of mcap's chunks; sqlite3 knows none.
        split_mb: size of a file after which the next one begins [MB, millions of bytes]; 0 for one file.
        split_s: log time in a file after which the next one begins [s]; 0 for one file.
        flush_every_s: seconds of wall-clock time after which a write also flushes; 0 flushes only on request.
        clock: monotonic seconds, for tests.

    A bag that is split has one folder and one metadata.yaml all the same. The newest message of each latched topic
    is written again at the head of every further file, so that a file alone says which rollout runs and what it was
    told.

    Raises:
        UnlearningError: 310 when the folder exists or cannot be made, or sqlite3 shall be compressed.
    """

    def __init__(
        self,
        path: Path,
        *,
        storage: Storage = "mcap",
        compression: Compression = "none",
        split_mb: float = 0.0,
        split_s: float = 0.0,
        flush_every_s: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        self._clock = clock
        self._flush_every_s = flush_every_s
        self._flushed_at = clock()
        self._connections: dict[str, Connection] = {}
        self._messages = 0
        if storage == "sqlite3" and compression != "none":
            raise self._unwritable("sqlite3 has no compression", "store as mcap, or set compression to none")
        try:
            self._writer = BagFiles(
                self.path, storage, compression, round(split_mb * _MEGABYTE), round(split_s * _NANOSECONDS)
            )
            self._writer.open()
        except (WriterError, OSError) as error:
            raise self._unwritable(error, "name a new folder on a disk with space") from error
        self._open = True

    @property
    def messages(self) -> int:
        """Messages written so far."""
        return self._messages

    @property
    def repeats(self) -> int:
        """Latched messages written again at the head of further files, not among :attr:`messages`."""
        return self._writer.repeats

    @property
    def files(self) -> list[str]:
        """Names of the files so far."""
        return self._writer.names

    @property
    def size_bytes(self) -> int:
        """Size of the bag so far."""
        return self._writer.size_bytes

    @property
    def topics(self) -> dict[str, str]:
        """Topic to message type, of the topics added so far."""
        return {topic: connection.msgtype for topic, connection in self._connections.items()}

    def add_topic(self, topic: str, msgtype: str, qos: Qos | None = None) -> None:
        """Register a topic; adding the same topic with the same type again does nothing.

        Args:
            topic: full name.
            msgtype: as bags call it.
            qos: what ``ros2 bag play`` shall offer; without it what the live graph does.

        Raises:
            UnlearningError: 310 for a type that is unknown, or other than before.
        """
        store = typestore()
        if msgtype not in store.fielddefs:
            raise self._unwritable(
                f"message type {msgtype} of {topic} is not known", did_you_mean(msgtype, store.fielddefs)
            )
        with self._lock:
            known = self._connections.get(topic)
            if known is not None and known.msgtype != msgtype:
                raise self._unwritable(
                    f"{topic} was {known.msgtype} before and is {msgtype} now", "record into another bag"
                )
            if known is None:
                offered = qos or recorded_qos(topic, msgtype)
                connection = self._writer.add_connection(
                    topic, msgtype, typestore=store, offered_qos_profiles=(offered,)
                )
                if offered.durability == QosDurability.TRANSIENT_LOCAL:
                    self._writer.repeat(connection)
                self._connections[topic] = connection

    def write(self, topic: str, data: bytes | memoryview, time_ns: int) -> None:
        """Append one message: CDR bytes as they came from the wire, logged at ``time_ns``.

        Raises:
            UnlearningError: 310 when the topic was not added, the bag is closed, or the disk is full.
        """
        with self._lock:
            if topic not in self._connections:
                raise self._unwritable(f"topic {topic} was not added", did_you_mean(topic, self._connections))
            if not self._open:
                raise self._unwritable("bag is closed", "record into a new bag")
            try:
                self._writer.write(self._connections[topic], time_ns, data)
                self._messages += 1
                if self._flush_is_due():
                    self._flush()
            except (OSError, WriterError) as error:
                raise self._unwritable(
                    error, "make room on the disk; what was flushed can be read"
                ) from error

    def flush_if_due(self) -> None:
        """Flush where the last time was long enough ago; for when nothing more is written. Raises as :meth:`flush`."""
        if self._flush_is_due():
            self.flush()

    def flush(self) -> None:
        """Put everything written so far on the disk (mcap only; sqlite3 is committed by :meth:`close`).

        Raises:
            UnlearningError: 310 when the disk is full.
        """
        with self._lock:
            if not self._open:
                return
            try:
                self._flush()
            except (OSError, WriterError) as error:
                raise self._unwritable(
                    error, "make room on the disk; what was flushed can be read"
                ) from error

    def close(self) -> None:
        """Write index and metadata.yaml. Closing twice is fine."""
        with self._lock:
            if not self._open:
                return
            self._open = False
            try:
                self._writer.close()
            except (OSError, WriterError) as error:
                raise self._unwritable(
                    error, "make room on the disk; what was flushed can be read"
                ) from error

    def __enter__(self) -> BagSink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _flush_is_due(self) -> bool:
        return self._flush_every_s > 0 and self._clock() - self._flushed_at >= self._flush_every_s

    def _flush(self) -> None:
        self._flushed_at = self._clock()
        self._writer.file.flush()

    def _unwritable(self, cause: object, remedy: str) -> UnlearningError:
        text = str(cause).rstrip(".")
        return UnlearningError(
            ErrorCode.UNLEARNING_BAG_UNWRITABLE,
            f"bag cannot be written: {text}",
            value=str(self.path),
            remedy=remedy,
        )
