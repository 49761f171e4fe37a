"""Batches of training frames, filled one frame at a time."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

# Of a list and of the call that asks: a buffer with no more references than these is in nobody's hands.
_OURS = 2


@dataclass(frozen=True, eq=False)
class Batch:
    """B frames of one size of image, action and state.

    Attributes:
        images: (B, H, W, 3) uint8 RGB, or (B, cameras, H, W, 3) with the main camera first.
        actions: (B, A) float32, robot units; (B, chunk * A) for policies with chunks.
        instructions: B texts.
        episodes: B rollout ids.
        frames: (B,) int64, index of each frame in its episode.
        states: (B, P) float64 state of the robot, None where none was asked for.
    """

    images: np.ndarray
    actions: np.ndarray
    instructions: tuple[str, ...]
    episodes: tuple[str, ...]
    frames: np.ndarray
    states: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame on its way into a batch; ``image`` may be a view of memory that is used again."""

    image: np.ndarray
    action: np.ndarray
    instruction: str
    episode: str
    index: int
    state: np.ndarray | None = None

    @property
    def sizes(self) -> tuple[tuple[int, ...], ...]:
        """What all frames of a batch have in common."""
        state = () if self.state is None else self.state.shape
        return (self.image.shape, self.action.shape, state)


class BatchMaker:
    """Fills batches of up to ``size`` frames; frames of other sizes begin a new one."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._buffers: list[np.ndarray] = []
        self._images: np.ndarray | None = None
        self._frames: list[Frame] = []
        self._sizes: tuple[tuple[int, ...], ...] = ()

    def add(self, frame: Frame) -> Iterator[Batch]:
        """Take one more frame, and give the batches that are complete by that."""
        if self._frames and frame.sizes != self._sizes:
            yield from self.rest()
        if self._images is None:
            self._sizes = frame.sizes
            self._images = self._buffer(frame.image.shape)
        self._images[len(self._frames)] = frame.image
        self._frames.append(frame)
        if len(self._frames) == self._size:
            yield from self.rest()

    def rest(self) -> Iterator[Batch]:
        """The last batch, which may have fewer frames."""
        if self._images is None:
            return
        frames, images = self._frames, self._images[: len(self._frames)]
        self._frames, self._images = [], None
        states = [frame.state for frame in frames if frame.state is not None]
        yield Batch(
            images,
            np.stack([frame.action for frame in frames]),
            tuple(frame.instruction for frame in frames),
            tuple(frame.episode for frame in frames),
            np.array([frame.index for frame in frames], dtype=np.int64),
            np.stack(states) if states else None,
        )

    def _buffer(self, shape: tuple[int, ...]) -> np.ndarray:
        """Memory for a batch of images: a block that nobody holds any more, for fresh memory takes as long as copying."""
        shape = (self._size, *shape)
        for buffer in self._buffers:
            # A batch, or a tensor made of it, holds a reference to the block as long as it lives.
            if buffer.shape == shape and sys.getrefcount(buffer) <= _OURS + 1:
                return buffer
        self._buffers = [b for b in self._buffers if b.shape == shape][-1:]
        self._buffers.append(np.empty(shape, dtype=np.uint8))
        return self._buffers[-1]
