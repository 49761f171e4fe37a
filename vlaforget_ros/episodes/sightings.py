"""Which images a bag has, told by the first bytes of their messages, and which of them each frame gets."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from vlaforget_ros.episodes.images import BrokenImage, header_stamp_ns
from vlaforget_ros.episodes.matching import Frames
from vlaforget_ros.episodes.plain_image import PlainImages
from vlaforget_ros.episodes.storage.message import Message

Place = tuple[int, int, int]
"""Stamp and log time of an image [ns], and how many with these two came just before it."""


class Places:
    """Numbers images of one topic as they come by: two walks through a bag give each the same place."""

    def __init__(self) -> None:
        self._time_ns = -1
        self._before: dict[int, int] = {}

    def next(self, stamp: int, time_ns: int) -> Place:
        """The place of the next image."""
        if time_ns != self._time_ns:
            self._before.clear()
            self._time_ns = time_ns
        count = self._before.get(stamp, 0)
        self._before[stamp] = count + 1
        return (stamp, time_ns, count)


@dataclass
class Sightings:
    """Stamp, log time, size and place of every image, in the order of the bag: 36 bytes for each."""

    _stamps: array[int] = field(default_factory=lambda: array("q"))
    _times: array[int] = field(default_factory=lambda: array("q"))
    _counts: array[int] = field(default_factory=lambda: array("i"))
    _kinds: array[int] = field(default_factory=lambda: array("i"))
    _files: array[int] = field(default_factory=lambda: array("i"))
    _starts: array[int] = field(default_factory=lambda: array("q"))
    _shapes: dict[tuple[int, ...] | None, int] = field(default_factory=dict)
    _plain: PlainImages = field(default_factory=PlainImages)
    _places: Places = field(default_factory=Places)

    def note(self, message: Message) -> None:
        """One more image; one that is too short to have a stamp is none."""
        try:
            stamp = header_stamp_ns(message.data)
        except BrokenImage:
            return
        self._stamps.append(stamp)
        self._times.append(message.time_ns)
        self._counts.append(self._places.next(stamp, message.time_ns)[2])
        # How a compressed image will turn out is not plain to see.
        plain, rest = self._plain.layout(message), message.rest
        shape = None if plain is None else plain.shape
        self._kinds.append(self._shapes.setdefault(shape, len(self._shapes)))
        if plain is not None and rest is not None and plain.dense:
            self._files.append(rest.file)
            self._starts.append(rest.at - len(message.data) + plain.start)
        else:
            self._files.append(-1)
            self._starts.append(-1)

    def __iter__(self) -> Iterator[tuple[int, int, tuple[int, ...] | None]]:
        shapes = list(self._shapes)
        for stamp, time_ns, kind in zip(self._stamps, self._times, self._kinds, strict=True):
            yield stamp, time_ns, shapes[kind]

    def places(self, numbers: Sequence[int]) -> np.ndarray:
        """(N, 3) int64 :data:`Place` of the images with these numbers."""
        found = [(self._stamps[n], self._times[n], self._counts[n]) for n in numbers]
        return np.array(found, dtype=np.int64).reshape(-1, 3)

    def spots(self, numbers: Sequence[int]) -> np.ndarray:
        """(N, 2) int64 open file and position there of their pixels, -1 where these cannot be read as they are."""
        found = [(self._files[n], self._starts[n]) for n in numbers]
        return np.array(found, dtype=np.int64).reshape(-1, 2)

    def shape(self, number: int) -> tuple[int, ...] | None:
        """Of one image as it will be decoded, where that is known."""
        return list(self._shapes)[self._kinds[number]]


@dataclass(frozen=True)
class Seen:
    """What became of the images.

    Attributes:
        chosen: for each rollout, frame to the number of its image.
        unmatched: stamps of images that no action answers.
    """

    chosen: list[dict[int, int]]
    unmatched: list[int]


def assign(sightings: Sightings, frames: Sequence[Frames]) -> Seen:
    """Note in the frames of each rollout which of them have an image, by the rule by which they would be filled."""
    wanted: dict[int, list[tuple[int, int]]] = {}
    for which, frame in enumerate(frames):
        for index, action in enumerate(frame.wanted):
            wanted.setdefault(action.observation_ns, []).append((which, index))
    seen = Seen([{} for _ in frames], [])
    for number, (stamp, time_ns, shape) in enumerate(sightings):
        takers = wanted.get(stamp)
        if takers is None:
            seen.unmatched.append(stamp)
            continue
        for which, index in takers:
            if frames[which].takes(index, time_ns) and frames[which].see(index, time_ns, shape):
                seen.chosen[which][index] = number
    return seen
