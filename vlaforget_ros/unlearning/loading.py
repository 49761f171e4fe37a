"""Episodes with their images, a part of a bag at a time: for looking at many without holding all of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from vlaforget_ros.episodes.mapping import TopicMapping
from vlaforget_ros.episodes.reader import read_episodes
from vlaforget_ros.episodes.types import Episode, EpisodeInfo, TopicMap

MOST_FRAMES = 4000
"""Frames held at a time: 0.6 GB of 224x224 images. A longer episode is still read as a whole."""


def load(
    infos: Iterable[EpisodeInfo], topics: TopicMap | TopicMapping, most: int = MOST_FRAMES
) -> Iterator[Episode]:
    """The episodes again, with images, bag by bag.

    Args:
        infos: what a scan found.
        topics: of the bags.
        most: frames held at a time; a bag with more is read several times.

    Raises:
        UnlearningError: 300 and 301 as :func:`.reader.read_episodes`.
    """
    by_bag: dict[str, list[EpisodeInfo]] = {}
    for info in infos:
        by_bag.setdefault(info.source, []).append(info)
    for bag, held in by_bag.items():
        for part in _parts(held, most):
            yield from read_episodes(Path(bag), topics, {info.rollout_id for info in part}).episodes


def _parts(infos: list[EpisodeInfo], most: int) -> Iterator[list[EpisodeInfo]]:
    part: list[EpisodeInfo] = []
    frames = 0
    for info in infos:
        if part and frames + len(info) > most:
            yield part
            part, frames = [], 0
        part.append(info)
        frames += len(info)
    if part:
        yield part
