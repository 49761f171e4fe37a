"""A few images of one episode beside everything else that is known of it: for looking at, however long it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from rosbags.serde import SerdeError

from vlaforget_ros.episodes.images import BrokenImage, decode, header_stamp_ns
from vlaforget_ros.episodes.mapped.mapping import TopicMapping
from vlaforget_ros.episodes.mapped.reading import glimpse_mapped
from vlaforget_ros.episodes.reader import survey
from vlaforget_ros.episodes.storage.bags import Bag
from vlaforget_ros.episodes.streaming.reels import Reel, reels
from vlaforget_ros.episodes.types import Episode, EpisodeInfo, TopicMap
from vlaforget_ros.errors import ErrorCode, UnlearningError

Choose = Callable[[EpisodeInfo], np.ndarray]
"""(K,) increasing indices of the frames to look at."""


@dataclass(frozen=True, eq=False)
class Glimpse:
    """One episode and some of its images.

    Attributes:
        info: of the whole episode.
        actions: (T, A) float32, robot units.
        indices: (K,) increasing frame indices.
        images: (K, H, W, 3) uint8 RGB of the main camera.
    """

    info: EpisodeInfo
    actions: np.ndarray
    indices: np.ndarray
    images: np.ndarray


def glimpse(
    bag: Path, rollout: str, choose: Choose, topics: TopicMap | TopicMapping | None = None
) -> Glimpse:
    """Read one episode with some of its images; only these are held in memory.

    Args:
        bag: as for ``read_episodes``.
        rollout: its id; a damaged one will do.
        choose: which frames; those whose image cannot be decoded are left out.
        topics: as for ``read_episodes``.

    Raises:
        UnlearningError: 301 when the bag cannot be read, or has no image of this rollout.
    """
    if isinstance(topics, TopicMapping):
        seen = glimpse_mapped(Path(bag), topics, rollout, choose)
        if seen is None or not len(seen.indices):
            raise _nothing(
                rollout, "no frame of it is in the bag" if seen is None else "its images are broken"
            )
        return Glimpse(seen.info, seen.actions, seen.indices, seen.images)
    wanted = topics or TopicMap()
    with Bag(Path(bag)) as opened:
        found = survey(opened, wanted, damaged=True)
        reel = next((r for r in reels(found, wanted.stale_after_s) if r.info.rollout_id == rollout), None)
        if reel is None:
            raise _nothing(rollout, "no frame of it is in the bag")
        images = _images(opened, found.names.image, reel, choose(reel.info))
    if not images:
        raise _nothing(rollout, "its images are broken")
    indices = np.array(sorted(images), dtype=np.int64)
    return Glimpse(reel.info, reel.actions, indices, np.stack([images[int(i)] for i in indices]))


def glimpse_of(episode: Episode, choose: Choose) -> Glimpse:
    """The same of an episode that was read already."""
    info = EpisodeInfo(**{field.name: getattr(episode, field.name) for field in fields(EpisodeInfo)})
    indices = choose(info)
    return Glimpse(info, episode.actions, indices, episode.view(0)[indices])


def _images(bag: Bag, topic: str, reel: Reel, indices: np.ndarray) -> dict[int, np.ndarray]:
    """Frame index to image; images of another size than the first one are left out."""
    places = {tuple(reel.places[index, :2].tolist()): int(index) for index in indices}
    found: dict[int, np.ndarray] = {}
    for message in bag.messages((topic,), at={topic: {time_ns for _, time_ns in places}}):
        try:
            index = places.get((header_stamp_ns(message.data), message.time_ns))
            if index is None or index in found:
                continue
            image = decode(bag.deserialize(message))
        except (BrokenImage, SerdeError):
            continue
        if not found or image.shape == next(iter(found.values())).shape:
            found[index] = image
    return found


def _nothing(rollout: str, why: str) -> UnlearningError:
    return UnlearningError(
        ErrorCode.UNLEARNING_BAG_UNREADABLE,
        f"no image of the rollout can be shown: {why}",
        value=rollout,
        remedy="see `vlaforget episodes check --decode`",
    )
