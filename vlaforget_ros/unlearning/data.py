"""The four sets of an edit as arrays, split into training and held-out episodes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace

import numpy as np

from vlaforget_ros.errors import ErrorCode, UnlearningError


@dataclass(frozen=True, eq=False)
class Frames:
    """Frames of one set.

    Args:
        images: (N, H, W, 3) uint8 RGB.
        instructions: N texts.
        actions: (N, A) float32 in robot units: the recorded action (forget: the undesired one;
            counterfactual: what should be done).
        episodes: (N,) int64, which episode a frame is from; empty means that each frame stands alone.
        desired: (N, A) what should be done instead of ``actions`` on the very same frame, where it is known
            (forget set only). Tokens in which both agree are not undesired and are left alone.
    """

    images: np.ndarray
    instructions: tuple[str, ...]
    actions: np.ndarray
    episodes: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    desired: np.ndarray | None = None

    def __post_init__(self) -> None:
        if not len(self.images) == len(self.instructions) == len(self.actions):
            raise ValueError("images, instructions and actions must have equal length")
        if len(self.episodes) == 0:
            object.__setattr__(self, "episodes", np.arange(len(self.images), dtype=np.int64))

    def __len__(self) -> int:
        return len(self.images)

    def rows(self, index: np.ndarray) -> Frames:
        """The frames at ``index``."""
        return replace(
            self,
            images=self.images[index],
            instructions=tuple(self.instructions[i] for i in index),
            actions=self.actions[index],
            episodes=self.episodes[index],
            desired=None if self.desired is None else self.desired[index],
        )

    def digest(self) -> str:
        """SHA-256 over everything in the set, 64 hex digits."""
        sha = hashlib.sha256()
        arrays = [self.images, self.actions.astype(np.float32), self.episodes]
        for array in arrays if self.desired is None else [*arrays, self.desired.astype(np.float32)]:
            sha.update(f"{array.dtype}{array.shape}".encode())
            sha.update(np.ascontiguousarray(array).tobytes())
        sha.update("\n".join(self.instructions).encode())
        return sha.hexdigest()


@dataclass(frozen=True, eq=False)
class EditData:
    """What an edit learns from. Boundary and counterfactual sets may be None.

    Args:
        forget: recorded frames of the undesired behaviour.
        retain: recorded frames of what must keep working.
        boundary: near neighbours of the forget set that must keep working.
        counterfactual: what the policy should do in the situations to be forgotten.
    """

    forget: Frames
    retain: Frames
    boundary: Frames | None = None
    counterfactual: Frames | None = None

    def __post_init__(self) -> None:
        if len(self.forget) == 0:
            raise _empty("forget", ErrorCode.UNLEARNING_EMPTY_FORGET_SET)
        if len(self.retain) == 0:
            raise _empty("retain", ErrorCode.UNLEARNING_EMPTY_RETAIN_SET)

    def sets(self) -> dict[str, Frames]:
        """The sets that have frames, by name."""
        found = {name: getattr(self, name) for name in ("forget", "retain", "boundary", "counterfactual")}
        return {name: frames for name, frames in found.items() if frames is not None and len(frames)}

    def digests(self) -> dict[str, str]:
        """SHA-256 of each set."""
        return {name: frames.digest() for name, frames in self.sets().items()}


def split(frames: Frames, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
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
