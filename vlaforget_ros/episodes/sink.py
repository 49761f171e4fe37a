"""Recording: message bytes, as they come from the wire, to rosbag2.

Crash safety, as far as the format allows: messages are gathered in chunks, and a flush writes the present
chunk and syncs it to the disk. A recorder that is killed loses what came after its last flush. Its mcap file
has no summary and no metadata.yaml then; :func:`read_episodes` reads it all the same, ``ros2 bag reindex``
makes it whole for other tools. An sqlite3 bag is committed as a whole when it is closed: prefer mcap.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from rosbags.interfaces import Connection
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.rosbag2.errors import WriterError
from rosbags.rosbag2.storage_mcap import McapWriter

from vlaforget_ros.episodes.messages import recorded_qos, typestore
from vlaforget_ros.errors import ErrorCode, UnlearningError, did_you_mean

_PLUGINS = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}


class BagSink:
    """Writes serialized messages into one new rosbag2. Every method may be called from any thread.

    Args:
        path: folder to create; it must not exist.
        storage: ``mcap`` or ``sqlite3``.
        flush_every_s: seconds of wall-clock time after which a write also flushes; 0 flushes only on request.
        clock: monotonic seconds, for tests.

    Raises:
        UnlearningError: 310 when the folder exists or cannot be made.
    """

    def __init__(
        self,
        path: Path,
        *,
        storage: Literal["mcap", "sqlite3"] = "mcap",
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
        try:
            self._writer = Writer(self.path, version=Writer.VERSION_LATEST, storage_plugin=_PLUGINS[storage])
            self._writer.open()
        except (WriterError, OSError) as error:
            raise self._unwritable(error, "name a new folder on a disk with space") from error
        self._open = True

    @property
    def messages(self) -> int:
        """Messages written so far."""
        return self._messages

    @property
    def topics(self) -> dict[str, str]:
        """Topic to message type, of the topics added so far."""
        return {topic: connection.msgtype for topic, connection in self._connections.items()}

    def add_topic(self, topic: str, msgtype: str) -> None:
        """Register a topic; adding the same topic with the same type again does nothing.

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
                self._connections[topic] = self._writer.add_connection(
                    topic, msgtype, typestore=store, offered_qos_profiles=(recorded_qos(topic, msgtype),)
                )

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
                if self._flush_every_s > 0 and self._clock() - self._flushed_at >= self._flush_every_s:
                    self._flush()
            except OSError as error:
                raise self._unwritable(
                    error, "make room on the disk; what was flushed can be read"
                ) from error

    def flush(self) -> None:
        """Put everything written so far on the disk (mcap only; sqlite3 is committed by :meth:`close`)."""
        with self._lock:
            if not self._open:
                return
            try:
                self._flush()
            except OSError as error:
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
                _sync(self.path / "metadata.yaml")
                _sync(self.path)
            except OSError as error:
                raise self._unwritable(
                    error, "make room on the disk; what was flushed can be read"
                ) from error

    def __enter__(self) -> BagSink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _flush(self) -> None:
        self._flushed_at = self._clock()
        storage = self._writer.storage
        if isinstance(storage, McapWriter):
            if storage.chunk.msgs:
                storage.close_chunk()
            storage.bio.flush()
            os.fsync(storage.bio.fileno())

    def _unwritable(self, cause: object, remedy: str) -> UnlearningError:
        text = str(cause).rstrip(".")
        return UnlearningError(
            ErrorCode.UNLEARNING_BAG_UNWRITABLE,
            f"bag cannot be written: {text}",
            value=str(self.path),
            remedy=remedy,
        )


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
