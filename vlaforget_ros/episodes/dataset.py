"""Frames packed for training: arrays, not files, and always the same order for the same seed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from vlaforget_ros.episodes.types import EpisodeSlice
from vlaforget_ros.errors import ErrorCode, UnlearningError


@dataclass(frozen=True, eq=False)
class FrameSet:
    """N frames from any number of episodes.

    Args:
        images: (N, H, W, 3) uint8 RGB, or (N, cameras, H, W, 3) with the main camera first.
        instructions: N texts.
        actions: (N, A) float32, robot units: the recorded action (forget: the undesired one; counterfactual:
            what should be done).
        episodes: (N,) rollout id of the episode each frame is from, so that frames of one episode are known as such
            in every set they are in; empty: each frame stands alone.
        desired: (N, A) what should be done instead of ``actions`` on the very same frame, where it is known
            (forget set only). Tokens in which both agree are not undesired and are left alone.
        origin: where the frames are from, for reports and manifests.
        states: (N, P) float64 state of the robot, None where none was recorded.

    Raises:
        UnlearningError: 300 when the arrays do not fit together.
    """

    images: np.ndarray
    instructions: tuple[str, ...]
    actions: np.ndarray
    episodes: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.str_))
    desired: np.ndarray | None = None
    origin: str = ""
    states: np.ndarray | None = None

    def __post_init__(self) -> None:
        count = len(self.images)
        if len(self.episodes) == 0:
            object.__setattr__(self, "episodes", np.arange(count).astype(np.str_))
        desired = self.actions if self.desired is None else self.desired
        states = self.actions if self.states is None else self.states
        lengths = {len(self.instructions), len(self.episodes), *map(len, (self.actions, desired, states))}
        if lengths != {count} or self.images.ndim not in (4, 5) or (self.actions.ndim, states.ndim) != (2, 2):
            shapes = f"images {self.images.shape}, actions {self.actions.shape}"
            shapes += "" if self.states is None else f", states {self.states.shape}"
            raise UnlearningError(
                ErrorCode.UNLEARNING_BAD_REQUEST,
                "arrays of a frame set do not fit together",
                value=f"{shapes}, lengths {sorted(lengths)}",
                limit="(N, H, W, 3) or (N, cameras, H, W, 3) images, (N, A) actions, (N, P) states, N of all else",
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def cameras(self) -> int:
        """How many cameras each frame shows."""
        return 1 if self.images.ndim == 4 else self.images.shape[1]

    @property
    def episode_count(self) -> int:
        """How many episodes the frames are from."""
        return len(np.unique(self.episodes))

    def take(self, indices: np.ndarray, origin: str | None = None) -> FrameSet:
        """Some of the frames, in the order of ``indices`` (positions or a mask)."""
        positions = np.flatnonzero(indices) if indices.dtype == bool else indices
        return FrameSet(
            self.images[positions],
            tuple(self.instructions[i] for i in positions),
            self.actions[positions],
            self.episodes[positions],
            None if self.desired is None else self.desired[positions],
            self.origin if origin is None else origin,
            None if self.states is None else self.states[positions],
        )

    def digest(self) -> str:
        """SHA-256 of all content that training sees (not of ``origin``), 64 hex digits."""
        sha = hashlib.sha256()
        arrays = [self.images, self.actions.astype(np.float32)]
        for array in arrays if self.desired is None else [*arrays, self.desired.astype(np.float32)]:
            sha.update(f"{array.dtype}{array.shape}".encode())
            sha.update(np.ascontiguousarray(array).tobytes())
        if self.states is not None:
            sha.update(f"states{self.states.shape}".encode())
            sha.update(np.ascontiguousarray(self.states, dtype=np.float64).tobytes())
        sha.update("\n".join([*self.instructions, *self.episodes]).encode())
        return sha.hexdigest()


def frames_of(slices: Sequence[EpisodeSlice], origin: str = "recorded") -> FrameSet:
    """Pack slices, one after the other.

    Raises:
        UnlearningError: 300 when the slices are empty, or differ in the size of image, action or state, or in the
            number of cameras.
    """
    parts = []
    for part in slices:
        count = len(part)
        parts.append(
            FrameSet(
                part.episode.images[part.indices],
                (part.episode.instruction,) * count,
                part.episode.actions[part.indices].astype(np.float32),
                np.full(count, part.episode.rollout_id),
                origin=origin,
                states=None if part.episode.states is None else part.episode.states[part.indices],
            )
        )
    return _joined(parts, origin)


def concat(sets: Sequence[FrameSet], origin: str | None = None) -> FrameSet:
    """All frames of several sets, one after the other; desired actions are left out.

    Raises:
        UnlearningError: 300 when there are none, or they differ as in :func:`frames_of`.
    """
    return _joined(sets, " + ".join(f.origin for f in sets) if origin is None else origin)


def _joined(parts: Sequence[FrameSet], origin: str) -> FrameSet:
    sizes = {_sizes(part) for part in parts}
    if len(sizes) != 1:
        raise UnlearningError(
            ErrorCode.UNLEARNING_BAD_REQUEST,
            "frames cannot be put together",
            value=", ".join(sorted(sizes)) or "no frames",
            limit="frames of one image size, one action size, and one size of state if they have one",
            remedy="select recordings of one set of cameras and one arm",
        )
    states = [part.states for part in parts if part.states is not None]
    return FrameSet(
        np.concatenate([part.images for part in parts]),
        tuple(text for part in parts for text in part.instructions),
        np.concatenate([part.actions for part in parts]),
        np.concatenate([part.episodes for part in parts]),
        origin=origin,
        states=np.concatenate(states) if states else None,
    )


def _sizes(frames: FrameSet) -> str:
    states = "" if frames.states is None else f" states {frames.states.shape[1:]}"
    return f"images {frames.images.shape[1:]} actions {frames.actions.shape[1:]}{states}"
