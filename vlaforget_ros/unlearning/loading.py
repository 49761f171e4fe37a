"""Episodes with their images, a part of a bag at a time: for looking at many without holding all of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from vlaforget_ros.episodes.mapped.mapping import TopicMapping
from vlaforget_ros.episodes.reader import read_episodes
from vlaforget_ros.episodes.types import Episode, EpisodeInfo, TopicMap

MOST_BYTES = 500_000_000
"""Of images held at a time; an episode with more is still read as a whole."""
FIRST_FRAMES = 200
"""Frames of the first part, before it is known how large an image is."""


def load(
    infos: Iterable[EpisodeInfo], topics: TopicMap | TopicMapping, most: int = MOST_BYTES
) -> Iterator[Episode]:
    """The episodes again, with images, bag by bag; those that turn out to have no frame are left out.

    Args:
        infos: what a scan found.
        topics: of the bags.
        most: bytes of images held at a time; a bag with more is read several times.

    Raises:
        UnlearningError: 300 and 301 as :func:`.reader.read_episodes`.
    """
    by_bag: dict[str, list[EpisodeInfo]] = {}
    for info in infos:
        by_bag.setdefault(info.source, []).append(info)
    frames = FIRST_FRAMES
    for bag, left in by_bag.items():
        while left:
            count = _fitting(left, frames)
            part, left = left[:count], left[count:]
            for episode in read_episodes(Path(bag), topics, {info.rollout_id for info in part}).episodes:
                frames = max(1, most * len(episode) // episode.images.nbytes)
                yield episode


def _fitting(infos: list[EpisodeInfo], frames: int) -> int:
    """How many of the first episodes have so many frames together; at least one."""
    total = 0
    for count, info in enumerate(infos):
        total += len(info)
        if count and total > frames:
            return count
    return len(infos)
