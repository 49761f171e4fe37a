"""Second walk through a foreign bag: the pixels of the frames."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rosbags.serde import SerdeError

from vlaforget_ros.episodes.images import BrokenImage, decode
from vlaforget_ros.episodes.mapped import fields
from vlaforget_ros.episodes.mapped.mapping import ImageSource, TopicMapping
from vlaforget_ros.episodes.mapped.topics import MappedTopics
from vlaforget_ros.episodes.sensor_encodings import resized
from vlaforget_ros.episodes.storage.bags import Bag
from vlaforget_ros.episodes.types import Problem


class Pictures:
    """Images of one rollout as they come by.

    Args:
        frames: how many.
        topics: main camera first.
    """

    def __init__(self, frames: int, topics: Sequence[str]) -> None:
        self._topics = list(topics)
        self._views: np.ndarray | None = None
        self._there = np.zeros((frames, len(topics)), dtype=bool)
        self._lost: Counter[str] = Counter()

    def put(self, topic: str, indices: Sequence[int], image: np.ndarray) -> None:
        """Store the (H, W, 3) image of some frames; the first one says the size of all."""
        if self._views is None:
            self._views = np.zeros((*self._there.shape, *image.shape), dtype=np.uint8)
        if image.shape != self._views.shape[2:]:
            self._lost["images_other_size"] += len(indices)
            return
        camera = self._topics.index(topic)
        self._views[indices, camera] = image
        self._there[indices, camera] = True

    def broken(self, indices: Sequence[int]) -> None:
        """The image of some frames cannot be decoded."""
        self._lost["images_broken"] += len(indices)

    def complete(self) -> np.ndarray:
        """(K,) frames that have every image."""
        return np.flatnonzero(self._there.all(axis=1))

    def images(self, kept: np.ndarray) -> np.ndarray:
        """(K, H, W, 3) of some frames, or (K, cameras, H, W, 3) with further cameras."""
        if self._views is None:
            return np.zeros((0, 0, 0, 3), dtype=np.uint8)
        views = self._views if len(kept) == len(self._views) else self._views[kept]
        return views[:, 0] if len(self._topics) == 1 else views

    def problems(self, rollout_id: str) -> list[Problem]:
        """What frames were left out for."""
        texts = {
            "images_other_size": "images of another size than the first (`size` in the mapping makes them one)",
            "images_broken": "images that cannot be decoded",
        }
        found = [Problem(kind, rollout_id, n, f"{n} {texts[kind]}") for kind, n in self._lost.items()]
        if not self._there.all(axis=1).any():
            found.append(Problem("episode_empty", rollout_id, 1, "rollout without a single frame"))
        return found


def read_pictures(
    bag: Bag, mapping: TopicMapping, names: MappedTopics, wanted: Sequence[Mapping[str, np.ndarray]]
) -> list[Pictures]:
    """Decode the images of the frames.

    Args:
        bag: open.
        mapping: what its topics mean.
        names: of its topics.
        wanted: for each rollout, topic to (K, 2) stamps and log times of the images [ns].

    Raises:
        UnlearningError: 301 for an image encoding that is not known.
    """
    sources = dict(zip((names.image, *names.cameras), (mapping.image, *mapping.cameras), strict=True))
    pictures = [Pictures(len(each[names.image]), list(sources)) for each in wanted]
    takers: dict[tuple[str, int, int], list[tuple[Pictures, list[int]]]] = {}
    for shown, each in zip(pictures, wanted, strict=True):
        own: dict[tuple[str, int, int], list[int]] = {}
        for topic, moments in each.items():
            for index, (stamp, time_ns) in enumerate(moments.tolist()):
                own.setdefault((topic, stamp, time_ns), []).append(index)
        for key, indices in own.items():
            takers.setdefault(key, []).append((shown, indices))
    if not takers:
        return pictures
    times = {topic: {t for name, _, t in takers if name == topic} for topic in sources}
    stamps = {t: fields.stamp(bag, bag.topics[t], source.stamp) for t, source in sources.items()}
    for message in bag.messages(tuple(sources), at=times):
        stamp = stamps[message.topic]
        try:
            content = bag.deserialize(message)
        except SerdeError:
            continue
        # The same message twice, as two overlapping files have it, counts once.
        key = (message.topic, 0 if stamp is None else stamp(content), message.time_ns)
        found = takers.pop(key, [])
        if found:
            _show(content, sources[message.topic], message.topic, found)
    return pictures


def _show(
    content: Any, source: ImageSource, topic: str, takers: Sequence[tuple[Pictures, list[int]]]
) -> None:
    try:
        image = decode(content, source.encoding)
    except BrokenImage:
        for shown, indices in takers:
            shown.broken(indices)
        return
    if source.size and image.shape[:2] != source.size:
        image = resized(image, source.size)
    for shown, indices in takers:
        shown.put(topic, indices, image)
