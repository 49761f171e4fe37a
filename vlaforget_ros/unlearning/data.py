"""The four sets of an edit as arrays, split into training and held-out episodes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vlaforget_ros.episodes.dataset import FrameSet
from vlaforget_ros.errors import ErrorCode, UnlearningError


@dataclass(frozen=True, eq=False)
class EditData:
    """What an edit learns from. Boundary and counterfactual sets may be None.

    Args:
        forget: recorded frames of the undesired behaviour.
        retain: recorded frames of what must keep working.
        boundary: near neighbours of the forget set that must keep working.
        counterfactual: what the policy should do in the situations to be forgotten.
    """

    forget: FrameSet
    retain: FrameSet
    boundary: FrameSet | None = None
    counterfactual: FrameSet | None = None

    def __post_init__(self) -> None:
        if len(self.forget) == 0:
            raise _empty("forget", ErrorCode.UNLEARNING_EMPTY_FORGET_SET)
        if len(self.retain) == 0:
            raise _empty("retain", ErrorCode.UNLEARNING_EMPTY_RETAIN_SET)

    def sets(self) -> dict[str, FrameSet]:
        """The sets that have frames, by name."""
        found = {name: getattr(self, name) for name in ("forget", "retain", "boundary", "counterfactual")}
        return {name: frames for name, frames in found.items() if frames is not None and len(frames)}

    def digests(self) -> dict[str, str]:
        """SHA-256 of each set."""
        return {name: frames.digest() for name, frames in self.sets().items()}


def split(frames: FrameSet, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Training and held-out rows, never from the same episode where there are at least two.

    Args:
        frames: the set.
        share: of the episodes that is held out (at least one).
        seed: of the choice.
    """
    episodes = np.unique(frames.episodes)
    if len(episodes) < 2:
        rows = np.arange(len(frames))
        return rows, rows
    count = min(len(episodes) - 1, max(1, round(share * len(episodes))))
    chosen = np.random.default_rng(seed).permutation(episodes)[:count]
    held = np.isin(frames.episodes, chosen)
    return np.flatnonzero(~held), np.flatnonzero(held)


class Sampler:
    """Endless batches of row numbers: a fresh permutation each time all rows were used.

    Args:
        rows: what to draw from.
        size: rows of a batch (all of them where there are fewer).
        seed: numbers that make the sequence.
    """

    def __init__(self, rows: np.ndarray, size: int, seed: tuple[int, ...]) -> None:
        self._rows, self._size = rows, min(size, len(rows))
        self._rng = np.random.default_rng(seed)
        self._left = np.zeros(0, dtype=np.int64)

    def draw(self) -> np.ndarray:
        """The next batch."""
        if len(self._left) < self._size:
            self._left = np.concatenate([self._left, self._rng.permutation(self._rows)])
        batch, self._left = self._left[: self._size], self._left[self._size :]
        return batch


def _empty(name: str, code: ErrorCode) -> UnlearningError:
    return UnlearningError(
        code,
        f"the {name} set has no frames",
        value=0,
        limit="at least one frame",
        remedy=f"widen the {name} selection of the request, or record more episodes",
    )
