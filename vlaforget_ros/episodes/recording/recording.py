"""A recording: which messages go into which bag, masked how, and when it has to end. Knows no ROS.

Not thread-safe: :mod:`~vlaforget_ros.episodes.recording.intake` gives it a thread of its own. Whatever goes wrong, the
bag is closed with what it has, and the error says so.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rosbags.interfaces import Qos

from vlaforget_ros.episodes.messages import still_holds
from vlaforget_ros.episodes.recording.privacy import CannotMask, Region, mask_message
from vlaforget_ros.episodes.recording.ring import Heard, Incidents, Ring
from vlaforget_ros.episodes.storage.bag_files import Storage
from vlaforget_ros.episodes.storage.sink import BagSink
from vlaforget_ros.episodes.storage.storages import Compression
from vlaforget_ros.errors import ErrorCode, UnlearningError

_MEGABYTE = 1_000_000
_NANOSECONDS = 1_000_000_000
_LOOK_S = 1.0

Say = Callable[[str], object]


@dataclass(frozen=True)
class Settings:
    """How a recording is made.

    Attributes:
        storage: ``mcap`` or ``sqlite3``.
        compression: ``none`` or ``zstd``.
        split_mb: size of a file [MB, millions of bytes]; 0 for any.
        split_s: length of a file [s]; 0 for any.
        min_free_mb: space on the disk below which nothing is written [MB]; 0 for any.
        pre_trigger_s: kept before a trigger [s]; 0 records everything.
        post_trigger_s: written after the newest trigger [s].
        ring_mb: most memory for what is kept [MB].
    """

    storage: Storage = "mcap"
    compression: Compression = "none"
    split_mb: float = 0.0
    split_s: float = 0.0
    min_free_mb: float = 0.0
    pre_trigger_s: float = 0.0
    post_trigger_s: float = 10.0
    ring_mb: float = 500.0


def free_megabytes(path: Path) -> float:
    """Space left on the disk of a file or folder, which need not be there yet [MB]."""
    there = path.absolute()
    while not there.exists():
        there = there.parent
    return shutil.disk_usage(there).free / _MEGABYTE


class Recording:
    """Writes what it hears into one bag, or into one for each incident.

    Args:
        path: folder of the bag; of the incidents' bags (``incident_1`` ...) where a trigger decides.
        settings: how.
        masks: regions by full topic name.
        triggers: full names of the topics whose every message is a trigger.
        offered: quality of service of topics by full name, where it is known.
        say: gets a line for a person when a bag begins or ends.
        warn: gets one when something is not written.
        free_mb: space on the disk of a path [MB].
        clock: monotonic seconds.

    Raises:
        UnlearningError: 310 when the bag exists, cannot be made, or the disk has not enough space.
    """

    def __init__(
        self,
        path: Path,
        settings: Settings = Settings(),
        *,
        masks: Mapping[str, Sequence[Region]] | None = None,
        triggers: Sequence[str] = (),
        offered: Mapping[str, Qos] | None = None,
        say: Say = lambda text: None,
        warn: Say = lambda text: None,
        free_mb: Callable[[Path], float] = free_megabytes,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = path
        self._settings = settings
        self._masks = masks or {}
        self._offered = offered if offered is not None else {}
        self._say, self._warn = say, warn
        self._free_mb, self._clock = free_mb, clock
        self._looked_at = clock()
        self._sink: BagSink | None = None
        self._incidents: Incidents | None = None
        self._bytes = 0
        self.free_mb = free_mb(path)
        self.ended = False
        self.error: UnlearningError | None = None
        self.bags: list[Path] = []
        self.written: Counter[str] = Counter()
        self.unmasked: Counter[str] = Counter()
        self._check_disk()
        if settings.pre_trigger_s > 0:
            if path.exists():
                raise _unwritable(f"{path} exists already", path, "name a new folder")
            ring = Ring(_ns(settings.pre_trigger_s), round(settings.ring_mb * _MEGABYTE), _holds)
            self._ring = ring
            self._incidents = Incidents(
                ring, _ns(settings.post_trigger_s), lambda m: m.topic in set(triggers)
            )
        else:
            self._open(path)

    @property
    def size_bytes(self) -> int:
        """Bytes on the disk so far, of all bags."""
        # Another thread may ask while a bag is ended.
        sink = self._sink
        return self._bytes + (sink.size_bytes if sink is not None else 0)

    @property
    def incidents(self) -> int:
        """Triggers that began a bag."""
        return self._incidents.count if self._incidents is not None else 0

    @property
    def writing(self) -> bool:
        """Whether a bag is open."""
        return self._sink is not None

    def hear(self, message: Heard) -> None:
        """Take one message.

        Raises:
            UnlearningError: 310, it cannot be written; the bag is closed, and without incidents the recording over.
        """
        if self.ended:
            return
        try:
            self.tick(message.time_ns)
            if self._incidents is None:
                self._write(message)
                return
            for part in self._incidents.hear(message):
                if self._sink is None:
                    self.free_mb = self._free_mb(self.path)
                    self._check_disk()
                    self._open(self.path / f"incident_{self._incidents.count}")
                self._write(part)
        except UnlearningError as error:
            self._fail(error)
            raise

    def tick(self, now_ns: int) -> None:
        """Look at the time and the disk; for when nothing is heard.

        Raises:
            UnlearningError: 310 as :meth:`hear`.
        """
        if self._incidents is not None and self._incidents.over(now_ns):
            self._incidents.end()
            self._close()
        if self._clock() - self._looked_at < _LOOK_S:
            return
        self._looked_at = self._clock()
        self.free_mb = self._free_mb(self.path)
        if self._sink is not None:
            try:
                self._check_disk()
                self._sink.flush_if_due()
            except UnlearningError as error:
                self._fail(error)
                raise

    def close(self) -> None:
        """End it, bag and all. Raises UnlearningError 310 when the end cannot be written."""
        self.ended = True
        self._close()

    def give_up(self, cause: Exception) -> UnlearningError:
        """Something that nobody foresaw happened: keep what there is. Returns the error to be told."""
        error = _unwritable(
            f"recorder failed: {type(cause).__name__}: {cause}",
            self.path,
            "start it again; please report this",
        )
        self._fail(error)
        self.ended = True
        return error

    def summary(self) -> dict[str, Any]:
        """What was recorded, for a person and for JSON."""
        return {
            "bags": [str(bag) for bag in self.bags],
            "messages": sum(self.written.values()),
            "topics": dict(sorted(self.written.items())),
            "size_mb": self.size_bytes / _MEGABYTE,
            "free_mb": self.free_mb,
            "incidents": self.incidents,
            "unmasked": dict(sorted(self.unmasked.items())),
            "ring_cut": self._ring.cut if self._incidents is not None else 0,
            "ended": self.ended,
            "error": str(self.error) if self.error is not None else "",
        }

    def _write(self, message: Heard) -> None:
        if self._sink is None:
            return
        data = message.data
        regions = self._masks.get(message.topic, ())
        if regions:
            try:
                data = mask_message(data, message.msgtype, regions)
            except CannotMask as error:
                if not self.unmasked[message.topic]:
                    self._warn(f"images of {message.topic} are left out: they cannot be masked: {error}")
                self.unmasked[message.topic] += 1
                return
        # A topic that nobody publishes is not in the bag: it is added with its first message.
        self._sink.add_topic(message.topic, message.msgtype, self._offered.get(message.topic))
        self._sink.write(message.topic, data, message.time_ns)
        self.written[message.topic] += 1

    def _open(self, path: Path) -> None:
        kept = self._settings
        self._sink = BagSink(
            path,
            storage=kept.storage,
            compression=kept.compression,
            split_mb=kept.split_mb,
            split_s=kept.split_s,
        )
        self.bags.append(path)
        self._say(f"recording into {path}")

    def _close(self) -> None:
        sink, self._sink = self._sink, None
        if sink is None:
            return
        try:
            sink.close()
        except UnlearningError as error:
            self.error = self.error or error
            raise
        finally:
            self._bytes += sink.size_bytes
        self._say(f"closed {sink.path} with {sink.messages} messages")

    def _fail(self, error: UnlearningError) -> None:
        """Keep what there is. After an incident that could not be written the next one is tried again."""
        if self.error is error:
            return
        self.error = error
        if self._incidents is None:
            self.ended = True
        else:
            self._incidents.end()
        try:
            self._close()
        except UnlearningError as second:
            self._warn(f"{second}: the bag has no end; what was flushed can be read")

    def _check_disk(self) -> None:
        least = self._settings.min_free_mb
        if self.free_mb < least:
            raise UnlearningError(
                ErrorCode.UNLEARNING_BAG_UNWRITABLE,
                "disk is almost full: nothing more is recorded",
                value=f"{self.free_mb:.0f} MB free at {self.path}",
                limit=f"{least:g} MB (min_free_mb)",
                remedy="make room or record to another disk; what was recorded so far is whole",
            )


def _holds(message: Heard) -> bool:
    return still_holds(message.msgtype, message.data)


def _ns(seconds: float) -> int:
    return round(seconds * _NANOSECONDS)


def _unwritable(message: str, path: Path, remedy: str) -> UnlearningError:
    return UnlearningError(ErrorCode.UNLEARNING_BAG_UNWRITABLE, message, value=str(path), remedy=remedy)
