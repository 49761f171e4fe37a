"""What a policy was shown beside the main camera's image: further cameras, and the state of the robot.

The live node takes the newest message of each topic that it has when it answers a main image. In a bag that is told by
the stamps: the message that was recorded last among those stamped at or before the main image, and not longer before it
than ``stale_after_s``. "Recorded last" rather than "highest stamp" keeps two runs of a simulation apart, whose stamps
repeat within one bag.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from rosbags.rosbag2.errors import ReaderError
from rosbags.serde import SerdeError

from vlaforget_ros.episodes.images import BrokenImage, decode, header_stamp_ns
from vlaforget_ros.episodes.matching import Frames, StampedAction
from vlaforget_ros.episodes.storage.bags import Bag
from vlaforget_ros.episodes.storage.message import Message
from vlaforget_ros.episodes.topics import Topics
from vlaforget_ros.episodes.types import NANOSECONDS, Problem

_NEVER_NS = -(2**62)
Moment = tuple[int, int]
"""Stamp and log time of a message [ns]."""


class BrokenState(ValueError):
    """One message of the state is of no use; the others may be fine."""


@dataclass
class Track:
    """When the messages of one topic were stamped and recorded [ns], in any order."""

    stamps: array[int] = field(default_factory=lambda: array("q"))
    times: array[int] = field(default_factory=lambda: array("q"))

    def add(self, stamp_ns: int, time_ns: int) -> None:
        """One more message."""
        self.stamps.append(stamp_ns)
        self.times.append(time_ns)

    @cached_property
    def _by_stamp(self) -> tuple[np.ndarray, np.ndarray]:
        stamps, times = (np.array(values, dtype=np.int64) for values in (self.stamps, self.times))
        order = np.argsort(stamps, kind="stable")
        return stamps[order], times[order]

    def newest(self, action: StampedAction, age_ns: int) -> Moment | None:
        """The message that was there when an action was computed; ask only when all were added.

        Args:
            action: with the stamp of the main image that it answers.
            age_ns: how much older than that image the message may be [ns].
        """
        stamps, times = self._by_stamp
        first = int(np.searchsorted(stamps, action.observation_ns - age_ns, "left"))
        last = int(np.searchsorted(stamps, action.observation_ns, "right"))
        # A recorder may be late with a message; one that is very late is of another run with the same stamps.
        there = first + np.flatnonzero(times[first:last] <= action.time_ns + age_ns)
        if not len(there):
            return None
        chosen = there[np.lexsort((stamps[there], times[there]))[-1]]
        return int(stamps[chosen]), int(times[chosen])


class Views:
    """Collects the further images and the states of one rollout.

    Args:
        frames: of the rollout, with all images of the main camera.
        topics: of the bag.
        tracks: of each topic beside the main image.
        stale_after_s: how old a message may be [s].
    """

    def __init__(
        self, frames: Frames, topics: Topics, tracks: Mapping[str, Track], stale_after_s: float
    ) -> None:
        self._frames, self._topics, self._stale_after_s = frames, topics, stale_after_s
        self._complete = {topic: np.zeros(len(frames.wanted), dtype=bool) for topic in topics.beside}
        self._lost: dict[str, Counter[str]] = {topic: Counter() for topic in topics.beside}
        self.states: np.ndarray | None = None
        self.wanted: dict[tuple[str, Moment], list[int]] = {}
        for topic in topics.beside:
            for index in frames.matched():
                moment = tracks[topic].newest(frames.wanted[index], round(stale_after_s * NANOSECONDS))
                if moment is None:
                    self._lost[topic]["stale"] += 1
                else:
                    self.wanted.setdefault((topic, moment), []).append(int(index))

    def broken(self, topic: str, indices: Sequence[int]) -> None:
        """A message that :attr:`wanted` names is damaged."""
        self._lost[topic]["broken"] += len(indices)

    def put(self, topic: str, indices: Sequence[int], value: np.ndarray) -> None:
        """Store a message that :attr:`wanted` names.

        Args:
            topic: of the message.
            indices: frames beside which it was there.
            value: (H, W, 3) image or (P,) state.
        """
        for index in indices:
            if self._fits(topic, index, value):
                self._complete[topic][index] = True
            else:
                self._lost[topic]["size"] += 1

    def _fits(self, topic: str, index: int, value: np.ndarray) -> bool:
        if topic != self._topics.state:
            return self._frames.put_beside(index, 1 + self._topics.cameras.index(topic), value)
        if self.states is None:
            self.states = np.zeros((len(self._frames.wanted), len(value)), dtype=np.float64)
        if value.shape != self.states.shape[1:]:
            return False
        self.states[index] = value
        return True

    def matched(self) -> np.ndarray:
        """(K,) indices of the frames that have everything."""
        kept = self._frames.matched()
        return kept[np.all([self._complete[topic][kept] for topic in self._topics.beside], axis=0)]

    def states_of(self, kept: np.ndarray) -> np.ndarray | None:
        """(K, P) states of some frames; None where no state was asked for."""
        if not self._topics.state:
            return None
        return np.zeros((len(kept), 0)) if self.states is None else self.states[kept]

    def problems(self, rollout_id: str) -> list[Problem]:
        """What frames were left out for."""
        found = []
        for topic, lost in self._lost.items():
            is_state = topic == self._topics.state
            what, which = ("state", "a state") if is_state else ("camera", "an image")
            size = (
                "another number of values than the first" if is_state else "another size than the main camera"
            )
            texts = {
                "stale": (
                    f"frames_without_{what}",
                    f"without {which}, {self._stale_after_s:g} s old at most, of",
                ),
                "broken": (f"{what}_broken", f"with {which} that cannot be read of"),
                "size": (f"{what}_other_size", f"with {which} of {size} of"),
            }
            for why, count in lost.items():
                kind, text = texts[why]
                found.append(Problem(kind, rollout_id, count, f"{count} frames {text} {topic}"))
        return found


def read_views(
    bag: Bag, topics: Topics, frames: Sequence[Frames], tracks: Mapping[str, Track], stale_after_s: float
) -> list[Views]:
    """Decode what was shown beside the main images, straight into the frames.

    Args:
        bag: open.
        topics: of the bag, at least one of them beside the main image.
        frames: of each rollout, with all images of the main camera.
        tracks: of each topic beside the main image, whole.
        stale_after_s: how old a message may be [s].

    Raises:
        UnlearningError: 301 for an image encoding that is not known.
    """
    views = [Views(each, topics, tracks, stale_after_s) for each in frames]
    takers: dict[tuple[str, Moment], list[tuple[Views, list[int]]]] = {}
    for view in views:
        for key, indices in view.wanted.items():
            takers.setdefault(key, []).append((view, indices))
    for message in bag.messages(topics.beside, topics.beside):
        key = (message.topic, (_stamp_ns(message), message.time_ns))
        # The same message twice, as two overlapping files have it, counts once.
        found = takers.pop(key, [])
        if not found:
            continue
        try:
            value = (
                state_of(bag, message)
                if message.topic == topics.state
                else decode(bag.deserialize(message.whole()))
            )
        except (BrokenImage, BrokenState, SerdeError, ReaderError):
            for view, indices in found:
                view.broken(message.topic, indices)
            continue
        for view, indices in found:
            view.put(message.topic, indices, value)
    return views


def track(message: Message, tracks: Mapping[str, Track]) -> None:
    """Take note of a message of one of the topics beside the main image."""
    tracks[message.topic].add(_stamp_ns(message), message.time_ns)


def _stamp_ns(message: Message) -> int:
    """Of one that is too short to have a stamp: long before any image."""
    try:
        return header_stamp_ns(message.data)
    except BrokenImage:
        return _NEVER_NS


def state_of(bag: Bag, message: Message) -> np.ndarray:
    """(P,) positions of a sensor_msgs/JointState.

    Raises:
        BrokenState: there are none, or they are not finite.
        SerdeError: the bytes are damaged.
    """
    positions = np.array(bag.deserialize(message.whole()).position, dtype=np.float64)
    if not len(positions) or not np.all(np.isfinite(positions)):
        raise BrokenState(f"positions {positions}")
    return positions
