"""Images, and what was shown beside them, put together to frames as the messages come by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from rosbags.serde import SerdeError

from vlaforget_ros.episodes.images import BrokenImage, decode, header_stamp_ns
from vlaforget_ros.episodes.plain_image import PlainImages, UnreadImage
from vlaforget_ros.episodes.sightings import Places
from vlaforget_ros.episodes.storage.bags import Bag
from vlaforget_ros.episodes.storage.message import Message
from vlaforget_ros.episodes.streaming.reels import Reel
from vlaforget_ros.episodes.topics import Topics
from vlaforget_ros.episodes.views import BrokenState, state_of

Whole = tuple[Reel, int, np.ndarray | UnreadImage, np.ndarray | None]
"""A frame: of which rollout, its index, its image or images, its state."""
_NEVER = -(2**63)


class Showing:
    """Takes the messages of one walk through a bag, and gives frames as soon as they are whole.

    Args:
        names: topics of the bag.
        wanted: rollouts, and the indices of the frames that are wanted of each; at least one frame.

    Attributes:
        times: for each topic the log times [ns] of the messages that matter.
    """

    def __init__(self, names: Topics, wanted: Sequence[tuple[Reel, np.ndarray]]) -> None:
        self._names = names
        self._reels = [reel for reel, _ in wanted]
        self._rows = rows_of(wanted)
        last = len(self._rows) - 1
        # Each time's first row: the others of that time follow it.
        self._first = {int(t): last - 1 - n for n, t in enumerate(self._rows[-2::-1, 1])}
        self.times: dict[str, dict[int, int] | set[int]] = {names.image: self._first}
        self._places = Places()
        self._plain = {topic: PlainImages() for topic in (names.image, *names.cameras)}
        self._open = np.ones(last, dtype=bool)
        self._beside: dict[tuple[str, int, int], list[int]] = {}
        self._parts: dict[int, dict[str, np.ndarray]] = {}
        self._shapes: dict[tuple[str, int], tuple[int, ...]] = {}
        self._given = 0
        for topic in names.beside:
            moments = [self._reels[reel].moments[topic][index] for *_, reel, index in self._rows[:-1]]
            self.times[topic] = {int(time_ns) for _, time_ns in moments}
            for row, (stamp, time_ns) in enumerate(moments):
                self._beside.setdefault((topic, int(stamp), int(time_ns)), []).append(row)

    @property
    def missing(self) -> int:
        """Wanted frames that were not given so far."""
        return len(self._rows) - 1 - self._given

    def take(self, bag: Bag, message: Message) -> Iterator[Whole]:
        """The frames that are whole with this message.

        Their images may not have been read yet: they are to be used at once.

        Raises:
            UnlearningError: 301 for an image encoding that is not known.
        """
        rows = self._rows_of(message)
        if not rows:
            return
        topic = message.topic
        value = _state(bag, message) if topic == self._names.state else self._image(bag, message)
        if value is None:
            self._open[rows] = False
            return
        for row in rows:
            if not self._open[row]:
                continue
            *_, reel, index = self._rows[row].tolist()
            # The first of a rollout says the size of all.
            if self._shapes.setdefault((topic, reel), value.shape) != value.shape:
                self._open[row] = False
            elif not self._names.beside:
                self._open[row] = False
                self._given += 1
                yield self._reels[reel], index, value, None
            else:
                yield from self._joined(row, topic, value)

    def _image(self, bag: Bag, message: Message) -> np.ndarray | UnreadImage | None:
        plain = self._plain[message.topic].layout(message)
        if plain is not None:
            return UnreadImage(message, plain)
        try:
            return decode(bag.deserialize(message.whole()))
        except (BrokenImage, SerdeError):
            return None

    def _joined(self, row: int, topic: str, value: np.ndarray | UnreadImage) -> Iterator[Whole]:
        """The frame, where this was the last part of it."""
        parts = self._parts.setdefault(row, {})
        parts[topic] = value.decoded() if isinstance(value, UnreadImage) else value
        if len(parts) < 1 + len(self._names.beside):
            return
        self._open[row] = False
        del self._parts[row]
        *_, reel, index = self._rows[row].tolist()
        state = parts.pop(self._names.state, None)
        images = [parts[name] for name in (self._names.image, *self._names.cameras)]
        if len({image.shape for image in images}) == 1:
            self._given += 1
            yield self._reels[reel], index, np.stack(images) if len(images) > 1 else images[0], state

    def _rows_of(self, message: Message) -> list[int]:
        try:
            stamp = header_stamp_ns(message.data)
        except BrokenImage:
            return []
        if message.topic != self._names.image:
            # The same message twice, as two overlapping files have it, counts once.
            return self._beside.pop((message.topic, stamp, message.time_ns), [])
        place = self._places.next(stamp, message.time_ns)
        rows, row = [], self._first.get(message.time_ns, -1)
        while self._rows[row, 1] == message.time_ns:
            if tuple(self._rows[row, :3].tolist()) == place:
                rows.append(row)
            row += 1
        return rows


def rows_of(wanted: Sequence[tuple[Reel, np.ndarray]]) -> np.ndarray:
    """(N + 1, 5) place, number of the rollout, index, by log time; the last one ends every search."""
    rows = [
        np.column_stack([reel.places[indices], np.full(len(indices), number), indices])
        for number, (reel, indices) in enumerate(wanted)
    ]
    joined = np.concatenate(rows)
    end = np.full((1, joined.shape[1]), _NEVER)
    return np.concatenate([joined[np.argsort(joined[:, 1], kind="stable")], end])


def _state(bag: Bag, message: Message) -> np.ndarray | None:
    try:
        return state_of(bag, message)
    except (BrokenState, SerdeError):
        return None
