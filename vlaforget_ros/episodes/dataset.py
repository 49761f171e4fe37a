"""Frames packed for training: arrays, not files, and always the same order for the same seed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vlaforget_ros.episodes.types import EpisodeSlice
from vlaforget_ros.errors import ErrorCode, UnlearningError


@dataclass(frozen=True, eq=False)
class FrameSet:
    """N frames from any number of episodes.

    Attributes:
        images: (N, H, W, 3) uint8 RGB.
        instructions: N texts.
        actions: (N, A) float32, robot units.
        episodes: (N,) int64, number of the episode each frame is from; frames of one episode share it.
        weights: (N,) float32, share of each frame in the loss; 1 by default.
        origin: where the frames are from, for reports and manifests.
    """

    images: np.ndarray
    instructions: tuple[str, ...]
    actions: np.ndarray
    episodes: np.ndarray
    weights: np.ndarray
    origin: str

    def __post_init__(self) -> None:
        count = len(self.images)
        lengths = {len(self.instructions), len(self.actions), len(self.episodes), len(self.weights)}
        if lengths != {count} or self.images.ndim != 4 or self.actions.ndim != 2:
            raise UnlearningError(
                ErrorCode.UNLEARNING_BAD_REQUEST,
                "arrays of a frame set do not fit together",
                value=f"images {self.images.shape}, actions {self.actions.shape}, lengths {sorted(lengths)}",
                limit="(N, H, W, 3) images, (N, A) actions, N of everything else",
            )

    def __len__(self) -> int:
        return len(self.images)

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
            self.weights[positions],
            self.origin if origin is None else origin,
        )

    def with_weight(self, weight: float) -> FrameSet:
        """The same frames, each weighing ``weight``."""
        return replace(self, weights=np.full(len(self), weight, dtype=np.float32))

    def batches(
        self, batch_size: int, generator: np.random.Generator, *, drop_last: bool = False
    ) -> Iterator[FrameSet]:
        """One pass over all frames in random order; the generator's state alone decides the order.

        Args:
            batch_size: frames in a batch; the last one may be smaller, unless ``drop_last`` leaves it out.
        """
        order = generator.permutation(len(self))
        stop = len(self) - len(self) % batch_size if drop_last else len(self)
        for start in range(0, stop, batch_size):
            yield self.take(order[start : start + batch_size])

    def sample(self, batch_size: int, generator: np.random.Generator) -> FrameSet:
        """One batch drawn without repetition (with it, when there are fewer frames than asked for)."""
        chosen = generator.choice(len(self), size=batch_size, replace=batch_size > len(self))
        return self.take(chosen)

    def split(self, held_out_share: float, seed: int) -> tuple[FrameSet, FrameSet]:
        """Training and held-out frames; an episode is never in both.

        Args:
            held_out_share: share of the episodes to hold out, 0..1; both sides get at least one episode.
            seed: decides which.

        Raises:
            UnlearningError: 300 when there are fewer than two episodes.
        """
        names = np.unique(self.episodes)
        if len(names) < 2:
            raise UnlearningError(
                ErrorCode.UNLEARNING_BAD_REQUEST,
                "frames cannot be split into training and held-out episodes",
                value=f"{len(names)} episodes",
                limit=">= 2 episodes",
                remedy="record more episodes, or hold nothing out",
            )
        count = min(max(round(held_out_share * len(names)), 1), len(names) - 1)
        held_out = np.random.default_rng(seed).permutation(names)[:count]
        mask = np.isin(self.episodes, held_out)
        return self.take(~mask, f"{self.origin}, training"), self.take(mask, f"{self.origin}, held out")

    def digest(self) -> str:
        """SHA-256 of all content that training sees (not of ``origin``), lower-case hex."""
        hasher = hashlib.sha256()
        for array in (self.images, self.actions, self.episodes, self.weights):
            hasher.update(f"{array.dtype.str}{array.shape}".encode())
            hasher.update(np.ascontiguousarray(array).data)
        for text in self.instructions:
            hasher.update(text.encode() + b"\0")
        return hasher.hexdigest()


def frames_of(slices: Sequence[EpisodeSlice], origin: str = "recorded") -> FrameSet:
    """Pack slices; episodes are numbered from 0 in the order of the slices.

    Raises:
        UnlearningError: 300 when the slices are empty, or differ in image or action size.
    """
    parts = []
    for number, part in enumerate(slices):
        count = len(part)
        parts.append(
            FrameSet(
                part.episode.images[part.indices],
                (part.episode.instruction,) * count,
                part.episode.actions[part.indices].astype(np.float32),
                np.full(count, number, dtype=np.int64),
                np.ones(count, dtype=np.float32),
                origin,
            )
        )
    return _joined(parts, origin)


def concat(sets: Sequence[FrameSet], origin: str | None = None) -> FrameSet:
    """All frames of several sets; their episodes stay apart (they are numbered anew).

    Raises:
        UnlearningError: 300 when there are none, or they differ in image or action size.
    """
    parts, first = [], 0
    for frames in sets:
        _, numbers = np.unique(frames.episodes, return_inverse=True)
        parts.append(replace(frames, episodes=numbers.astype(np.int64) + first))
        first += frames.episode_count
    return _joined(parts, " + ".join(f.origin for f in sets) if origin is None else origin)


def _joined(parts: Sequence[FrameSet], origin: str) -> FrameSet:
    sizes = {(part.images.shape[1:], part.actions.shape[1:]) for part in parts}
    if len(sizes) != 1:
        raise UnlearningError(
            ErrorCode.UNLEARNING_BAD_REQUEST,
            "frames cannot be put together",
            value=", ".join(f"images {image} actions {action}" for image, action in sorted(sizes))
            or "no frames",
            limit="frames of one image size and one action size",
            remedy="select recordings of one camera and one arm",
        )
    return FrameSet(
        np.concatenate([part.images for part in parts]),
        tuple(text for part in parts for text in part.instructions),
        np.concatenate([part.actions for part in parts]),
        np.concatenate([part.episodes for part in parts]),
        np.concatenate([part.weights for part in parts]),
        origin,
    )
