"""The four sets of an edit as arrays, and which of their episodes are trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from vlaforget_ros.episodes.dataset import FrameSet
from vlaforget_ros.errors import ErrorCode, UnlearningError


@dataclass(frozen=True, eq=False)
class Earlier:
    """What an edit that the policy already has in it took out, to measure whether that stays out.

    Args:
        name: of its request.
        frames: recorded frames of that undesired behaviour.
        tau: distance above which an action counts as another one than was recorded.
    """

    name: str
    frames: FrameSet
    tau: float


@dataclass(frozen=True, eq=False)
class EditData:
    """What an edit learns from. Boundary and counterfactual sets may be None.

    Args:
        forget: recorded frames of the undesired behaviour.
        retain: recorded frames of what must keep working.
        boundary: near neighbours of the forget set that must keep working.
        counterfactual: what the policy should do in the situations to be forgotten.
        earlier: what must stay forgotten; only measured on, the boundary set is what protects it.
    """

    forget: FrameSet
    retain: FrameSet
    boundary: FrameSet | None = None
    counterfactual: FrameSet | None = None
    earlier: tuple[Earlier, ...] = ()

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
        """SHA-256 of each set, those of earlier requests as ``earlier_NAME``."""
        sets = {**self.sets(), **{f"earlier_{earlier.name}": earlier.frames for earlier in self.earlier}}
        return {name: frames.digest() for name, frames in sets.items()}


@dataclass(frozen=True, eq=False)
class Split:
    """Rows of each set, by set name.

    Args:
        train: rows that are trained on.
        held: rows of episodes that no set trains on; of a set without any, the training rows.
        unheld: sets without an episode that is held out, so that they are measured on what they are trained on.
    """

    train: dict[str, np.ndarray]
    held: dict[str, np.ndarray]
    unheld: tuple[str, ...]


def split(sets: Mapping[str, FrameSet], share: float, seed: int) -> Split:
    """Episodes to train on and episodes to measure on, the same for every set.

    One episode is often in several sets (a near neighbour is retained, too; the original policy is asked about
    recorded images), so splitting each set by itself would measure one set on what another is trained on.

    Args:
        sets: by name.
        share: of the episodes of each set that is held out: at least one, and never all, where it has two or more
            and the other sets leave it the choice.
        seed: of the choice.
    """
    episodes = {name: frozenset(frames.episodes.tolist()) for name, frames in sets.items()}
    generator = np.random.default_rng(seed)
    held: set[str] = set()
    settled: set[str] = set()
    # Small sets first: they have the least choice, and larger ones that contain them can make up for it.
    for name in sorted(episodes, key=lambda name: (len(episodes[name]), name)):
        wanted = max(1, round(share * len(episodes[name])))
        shuffled = generator.permutation(sorted(episodes[name])).tolist()
        for episode in sorted(shuffled, key=settled.__contains__):
            affected = [ids for ids in episodes.values() if episode in ids]
            leaves_some = all(len(ids - held) > 1 for ids in affected)
            if len(episodes[name] & held) < wanted and episode not in held and leaves_some:
                held.add(episode)
        settled |= episodes[name]
    is_held = {name: np.isin(frames.episodes, sorted(held)) for name, frames in sets.items()}
    train = {name: np.flatnonzero(~rows) for name, rows in is_held.items()}
    return Split(
        train=train,
        held={name: np.flatnonzero(rows) if rows.any() else train[name] for name, rows in is_held.items()},
        unheld=tuple(name for name, rows in is_held.items() if not rows.any()),
    )


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
