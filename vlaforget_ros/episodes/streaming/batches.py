"""Batches of training frames, filled one frame at a time."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol

import numpy as np

from vlaforget_ros.episodes.plain_image import ImageInFile, fill_together

# Of a list and of the call that asks: a buffer with no more references than these is in nobody's hands.
_OURS = 2
_THREADS = 2


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


class Picture(Protocol):
    """An image that is not decoded yet."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the decoded image."""

    def fill(self, into: np.ndarray) -> None:
        """Decode it into a contiguous uint8 array of this shape."""


@dataclass(frozen=True, eq=False, slots=True)
class Frame:
    """One frame on its way into a batch."""

    image: np.ndarray | Picture
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
    """Fills batches of up to ``size`` frames; frames of other sizes begin a new one. Use it as a context manager.

    Pictures are decoded by other threads, while the frames of the next batch are gathered and the batch before is in
    use. What reading them raises is raised when their batch is asked for.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._buffers: list[np.ndarray] = []
        self._images: np.ndarray | None = None
        self._frames: list[Frame] = []
        self._sizes: tuple[tuple[int, ...], ...] = ()
        self._pool = ThreadPoolExecutor(_THREADS, "batches")
        self._filling: tuple[list[Future[None]], Batch] | None = None

    def __enter__(self) -> BatchMaker:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def add(self, frame: Frame) -> Iterator[Batch]:
        """Take one more frame, and give the batches that are complete by that."""
        if self._frames and frame.sizes != self._sizes:
            yield from self._next()
        if self._images is None:
            self._sizes = frame.sizes
            self._images = self._buffer(frame.image.shape)
        if isinstance(frame.image, np.ndarray):
            self._images[len(self._frames)] = frame.image
        self._frames.append(frame)
        if len(self._frames) == self._size:
            yield from self._next()

    def rest(self) -> Iterator[Batch]:
        """All that is not given yet; the last batch may have fewer frames."""
        yield from self._next()
        yield from self._filled()

    def settle(self) -> None:
        """Wait until every picture is decoded: the files may be closed then."""
        if self._images is not None:
            _fill(self._images, self._frames, 0, len(self._frames))
            self._frames = [replace(f, image=self._images[n]) for n, f in enumerate(self._frames)]
        for future in self._filling[0] if self._filling is not None else ():
            future.result()

    def _next(self) -> Iterator[Batch]:
        """Have the gathered frames decoded, and give the batch before them."""
        if self._images is None:
            return
        frames, images = self._frames, self._images
        self._frames, self._images = [], None
        cuts = np.linspace(0, len(frames), _THREADS + 1).astype(int).tolist()
        futures = [self._pool.submit(_fill, images, frames, *cut) for cut in pairwise(cuts)]
        before = list(self._filled())
        self._filling = (futures, _batch(images[: len(frames)], frames))
        yield from before

    def _filled(self) -> Iterator[Batch]:
        if self._filling is not None:
            (futures, batch), self._filling = self._filling, None
            for future in futures:
                future.result()
            yield batch

    def _buffer(self, shape: tuple[int, ...]) -> np.ndarray:
        """A block that nobody holds any more, if there is one: fresh memory takes as long as copying."""
        shape = (self._size, *shape)
        for buffer in self._buffers:
            # A batch, or a tensor made of it, holds a reference to the block as long as it lives.
            if buffer.shape == shape and sys.getrefcount(buffer) <= _OURS + 1:
                return buffer
        self._buffers = [b for b in self._buffers if b.shape == shape][-2:]
        self._buffers.append(np.empty(shape, dtype=np.uint8))
        return self._buffers[-1]


def _fill(images: np.ndarray, frames: Sequence[Frame], start: int, end: int) -> None:
    pictures = [frame.image for frame in frames[start:end]]
    here = [picture for picture in pictures if isinstance(picture, ImageInFile)]
    if len(here) == len(pictures):
        fill_together(here, images[start:end])
        return
    for row, picture in enumerate(pictures, start):
        if not isinstance(picture, np.ndarray):
            picture.fill(images[row])


def _batch(images: np.ndarray, frames: Sequence[Frame]) -> Batch:
    states = [frame.state for frame in frames if frame.state is not None]
    return Batch(
        images,
        np.stack([frame.action for frame in frames]),
        tuple(frame.instruction for frame in frames),
        tuple(frame.episode for frame in frames),
        np.array([frame.index for frame in frames], dtype=np.int64),
        np.stack(states) if states else None,
    )
