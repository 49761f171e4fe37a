"""Reading from the bags of a request only what it can use: a robot's bags hold far more than an edit looks at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vlaforget_ros.episodes.reader import merged, read_episodes, scan_many
from vlaforget_ros.episodes.types import Episode, EpisodeInfo, Problem
from vlaforget_ros.unlearning.request import Request


@dataclass(frozen=True)
class Needed:
    """The bags of a request.

    Attributes:
        episodes: those that a part of the request may use, with their images.
        others: the rest, for texts and for names that occur nowhere else.
        problems: what was left out of all of them.
        looked_for: how many rollouts should have been among ``episodes``.
    """

    episodes: tuple[Episode, ...]
    others: tuple[EpisodeInfo, ...]
    problems: tuple[Problem, ...]
    looked_for: int

    @property
    def everything(self) -> list[EpisodeInfo]:
        """Both, those with images first."""
        return [*self.episodes, *self.others]


def read_needed(request: Request) -> Needed:
    """Scan the bags of a request, and read the episodes that it may use.

    Raises:
        UnlearningError: as ``read_many``.
    """
    bags = [Path(bag) for bag in request.bags]
    scanned = scan_many(bags, request.topics)
    ids = needed_of(request, scanned.episodes)
    # Recorded twice, a rollout comes from the longer recording: every bag that has it is looked at.
    problems, read = merged(bags, lambda bag: read_episodes(bag, request.topics, ids)) if ids else ((), ())
    told = [problem for problem in scanned.problems if problem.rollout_id not in ids]
    told += [problem for problem in problems if problem.rollout_id in ids]
    others = tuple(info for info in scanned.episodes if info.rollout_id not in ids)
    return Needed(tuple(read), others, tuple(told), len(ids))


def needed_of(request: Request, infos: Sequence[EpisodeInfo]) -> set[str]:
    """Rollouts of which a part of the request may use frames."""
    selections = [request.forget, request.retain, *([request.boundary] if request.boundary else [])]
    ids = {info.rollout_id for info in infos if any(each.matches(info) for each in selections)}
    if any(source.kind == "clean_successes" for source in request.counterfactual):
        texts = {info.instruction for info in infos if request.forget.matches(info)}
        ids |= {
            i.rollout_id for i in infos if i.instruction in texts and i.success is True and not i.violated
        }
    return ids
