"""Which episodes and frames the selections of a request choose: with or without the images at hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from vlaforget_ros.episodes.selection import Selection, choose
from vlaforget_ros.episodes.types import EpisodeInfo

Known = TypeVar("Known", bound=EpisodeInfo)


@dataclass(frozen=True, eq=False)
class Sets(Generic[Known]):
    """Episodes with the indices of their chosen frames; empty where a selection chooses nothing.

    Attributes:
        forget: D_f.
        retain: D_r, without the rollouts of D_f.
        boundary: D_b, without the rollouts of D_f.
    """

    forget: list[tuple[Known, np.ndarray]]
    retain: list[tuple[Known, np.ndarray]]
    boundary: list[tuple[Known, np.ndarray]]

    def by_name(self) -> dict[str, list[tuple[Known, np.ndarray]]]:
        """The sets by name."""
        return {"forget": self.forget, "retain": self.retain, "boundary": self.boundary}

    def sizes(self) -> dict[str, dict[str, int]]:
        """Name of the set to rollout id to frames: what a request writes down of them."""
        return {
            name: {episode.rollout_id: len(frames) for episode, frames in chosen}
            for name, chosen in self.by_name().items()
        }

    def episodes(self) -> list[Known]:
        """Every chosen episode once."""
        return list({e.rollout_id: e for chosen in self.by_name().values() for e, _ in chosen}.values())


def choose_sets(
    episodes: Sequence[Known], forget: Selection, retain: Selection, boundary: Selection | None
) -> Sets[Known]:
    """What an edit would learn from, as :func:`.sources.from_episodes` has it (there without earlier requests').

    Args:
        episodes: all there are.
        forget: what is undesired.
        retain: what must stay.
        boundary: near neighbours that must stay.
    """
    undesired = choose(episodes, forget)
    present = {episode.rollout_id for episode, _ in undesired}
    others = [episode for episode in episodes if episode.rollout_id not in present]
    near = choose(episodes, boundary) if boundary is not None else []
    return Sets(
        undesired,
        choose(others, retain),
        [(episode, frames) for episode, frames in near if episode.rollout_id not in present],
    )
