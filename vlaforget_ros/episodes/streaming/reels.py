"""What of a rollout must be known to stream its frames: everything but the images, and where these are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from vlaforget_ros.episodes.reader import Survey
from vlaforget_ros.episodes.streaming.batches import Frame, Picture
from vlaforget_ros.episodes.types import NANOSECONDS, EpisodeInfo
from vlaforget_ros.episodes.views import Moment


@dataclass(frozen=True, eq=False)
class Reel:
    """One rollout, ready to be filled with images.

    Attributes:
        info: of the rollout.
        actions: (T, A) float32, robot units.
        places: (T, 3) int64, each frame's :data:`Place`.
        spots: (T, 2) int64, open file and position there of each frame's pixels, -1 where they must be decoded.
        shape: (H, W, 3) of the images where it is known.
        moments: for each topic beside the main image, (T, 2) int64 stamp and log time of what was shown.
    """

    info: EpisodeInfo
    actions: np.ndarray
    places: np.ndarray
    spots: np.ndarray
    shape: tuple[int, ...] | None
    moments: Mapping[str, np.ndarray]

    def frame(self, index: int, image: np.ndarray | Picture, state: np.ndarray | None, chunk: int) -> Frame:
        """Frame ``index`` with its image and its state; ``chunk``: as for ``chunked``."""
        action = self.actions[index]
        if chunk > 1:
            steps = np.minimum(np.arange(index, index + chunk), len(self.actions) - 1)
            action = self.actions[steps].reshape(-1)
        return Frame(image, action, self.info.instruction, self.info.rollout_id, index, state)


def reels(found: Survey, stale_after_s: float) -> list[Reel]:
    """The rollouts of one bag that have frames, as far as everything beside their images is there, too."""
    made = []
    for info, usable, frames, chosen in zip(
        found.infos, found.usable, found.frames, found.chosen, strict=True
    ):
        if info is None:
            continue
        kept = frames.matched()
        shown: dict[str, list[Moment | None]] = {}
        for topic, track in found.tracks.items():
            age = round(stale_after_s * NANOSECONDS)
            shown[topic] = [track.newest(usable.actions[i], age) for i in kept]
        whole = [at for at in range(len(kept)) if all(moments[at] is not None for moments in shown.values())]
        if not whole:
            continue
        kept = kept[whole]
        numbers = [chosen[int(i)] for i in kept]
        made.append(
            Reel(
                replace(info, stamps_ns=info.stamps_ns[whole]),
                np.array([usable.actions[i].action for i in kept], dtype=np.float32),
                found.sightings.places(numbers),
                found.sightings.spots(numbers),
                found.sightings.shape(numbers[0]),
                {topic: np.array([m[at] for at in whole], dtype=np.int64) for topic, m in shown.items()},
            )
        )
    return made
