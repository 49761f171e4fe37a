"""Near neighbours of the forget episodes, found by what the policy sees: proposals for a boundary set.

The visual features of a few frames are put together patch by patch by their median: what moves (the arm) falls out,
what stays (the scene) remains. Two episodes are as far apart as the cosine distance of these scenes says.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import TypeVar

import numpy as np
import torch

from vlaforget_ros.episodes.mapped.mapping import TopicMapping
from vlaforget_ros.episodes.types import Episode, EpisodeInfo, TopicMap
from vlaforget_ros.policy.images import pixel_values
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.unlearning.loading import load
from vlaforget_ros.unlearning.observation import require_views

SAMPLED_FRAMES = 8
"""Frames of an episode that are looked at, evenly spread over it."""
MOST_LOOKED_AT = 96
"""Episodes that are looked at on either side; of more, an even choice over the instructions."""
FEWEST, MOST = 4, 16
"""As many neighbours as there are forget episodes, within these bounds."""

_Known = TypeVar("_Known", bound=EpisodeInfo)


@dataclass(frozen=True)
class Neighbour:
    """An episode that resembles one to be forgotten.

    Attributes:
        rollout_id: of the neighbour.
        instruction: that it was told.
        distance: cosine distance to the nearest forget episode, 0 (the same scene) to 2.
        nearest: rollout id of that one.
        same_instruction: whether a forget episode was told the same.
    """

    rollout_id: str
    instruction: str
    distance: float
    nearest: str
    same_instruction: bool


def candidates(episodes: Sequence[_Known], forget: Iterable[str]) -> list[_Known]:
    """Episodes that may be neighbours: without any violation, none of the forget set, and with success.

    Where nobody said of any such episode how it ended, those without a known outcome will do.

    Args:
        episodes: all there are.
        forget: rollout ids of the forget set.
    """
    taken = set(forget)
    clean = [e for e in episodes if not e.violated and e.rollout_id not in taken and len(e)]
    good = [e for e in clean if e.success]
    return good if good or any(e.success is False for e in clean) else clean


def scene(policy: VlaPolicy, episode: Episode, frames: int = SAMPLED_FRAMES) -> np.ndarray:
    """(patches * vision_dim,) the scene of an episode as the policy sees it, of length 1.

    Args:
        policy: whose features are taken; adapters that are active take part.
        episode: with at least one frame, of the cameras that the policy looks through.
        frames: how many are looked at.

    Raises:
        UnlearningError: 300 for other cameras, or another state, than the policy is shown.
    """
    require_views([episode], policy.config)
    rows = np.unique(np.linspace(0, len(episode) - 1, frames).round().astype(np.int64))
    with torch.no_grad():
        visual, _ = policy.features(pixel_values(episode.images[rows], policy.config, policy.device))
        middle = visual.float().median(dim=0).values.flatten()
        unit: np.ndarray = torch.nn.functional.normalize(middle, dim=0).cpu().numpy()
    return unit


def rank(
    forget: Sequence[tuple[EpisodeInfo, np.ndarray]], near: Sequence[tuple[EpisodeInfo, np.ndarray]]
) -> list[Neighbour]:
    """Neighbours by their distance to the nearest forget episode, the nearest first.

    Args:
        forget: forget episodes with their :func:`scene`; at least one.
        near: the same of the candidates.
    """
    scenes = np.stack([seen for _, seen in forget])
    told = {episode.instruction for episode, _ in forget}
    found = []
    for episode, seen in near:
        distances = 1.0 - scenes @ seen
        at = int(np.argmin(distances))
        found.append(
            Neighbour(
                episode.rollout_id,
                episode.instruction,
                round(max(0.0, float(distances[at])), 4),
                forget[at][0].rollout_id,
                episode.instruction in told,
            )
        )
    return sorted(found, key=lambda n: (n.distance, n.rollout_id))


def propose(ranked: Sequence[Neighbour], count: int) -> list[Neighbour]:
    """A boundary set of at most ``count``: the nearest, up to half of them for having been told the same.

    The nearest in the same scene show where to stop forgetting in what is seen, those told the same where to stop in
    what is said, even where they are farther away.

    Args:
        ranked: as :func:`rank` gives them.
        count: how many at most.
    """
    same = [n for n in ranked if n.same_instruction][: count // 2]
    rest = [n for n in ranked if n not in same][: count - len(same)]
    return sorted([*same, *rest], key=lambda n: (n.distance, n.rollout_id))


def usual_count(forget: int) -> int:
    """How many neighbours go with so many forget episodes."""
    return min(MOST, max(FEWEST, forget))


def find_neighbours(
    policy: VlaPolicy,
    episodes: Sequence[EpisodeInfo],
    forget: Sequence[str],
    topics: TopicMap | TopicMapping,
    told: Callable[[int, int], None] = lambda done, total: None,
) -> list[Neighbour]:
    """All candidates that were looked at, the nearest first: reads the images of these and of the forget episodes.

    Args:
        policy: the base policy.
        episodes: all there are, from a scan.
        forget: rollout ids of the forget set.
        topics: of the bags.
        told: called with (episodes looked at, episodes to look at).

    Raises:
        UnlearningError: 300 as :func:`scene`, 300 and 301 as :func:`.loading.load`.
    """
    taken = set(forget)
    undesired = _even([e for e in episodes if e.rollout_id in taken], MOST_LOOKED_AT)
    wanted = {e.instruction for e in undesired}
    clean = candidates(episodes, forget)
    same = _even([e for e in clean if e.instruction in wanted], MOST_LOOKED_AT // 2)
    near = [*same, *_even([e for e in clean if e not in same], MOST_LOOKED_AT - len(same))]
    looked_at = [*undesired, *near]
    scenes = {}
    for done, episode in enumerate(load(looked_at, topics), start=1):
        scenes[episode.rollout_id] = scene(policy, episode)
        told(done, len(looked_at))
    # An episode whose images turn out to be broken has no scene.
    seen = [[(e, scenes[e.rollout_id]) for e in part if e.rollout_id in scenes] for part in (undesired, near)]
    return rank(*seen) if seen[0] else []


def _even(episodes: Sequence[_Known], most: int) -> list[_Known]:
    """At most so many, the instructions taking turns."""
    by_instruction: dict[str, list[_Known]] = defaultdict(list)
    for episode in episodes:
        by_instruction[episode.instruction].append(episode)
    turns = chain.from_iterable(zip_longest(*by_instruction.values()))
    return [episode for episode in turns if episode is not None][:most]
