"""Which image belongs to which action: by the observation stamp, exactly. Pure functions on stamps.

Near is not good enough: an action paired with the image of the next tick teaches the policy to act on what
it had not seen yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, eq=False, slots=True)
class StampedAction:
    """What matching needs of a PolicyAction."""

    observation_ns: int
    time_ns: int  # log time
    action: np.ndarray
    fault: int
    adapter_digest: str


@dataclass(frozen=True)
class Usable:
    """The actions of one rollout that can become frames, and what was wrong with the others."""

    actions: tuple[StampedAction, ...]
    faulted: int
    non_finite: int
    repeated: int
    other_size: int


def usable_actions(actions: Iterable[StampedAction]) -> Usable:
    """Actions without a fault, finite, of one size, one for each observation stamp, in order of the stamps.

    When an image was answered twice, the first answer counts: it is what the arm got.
    """
    chosen: dict[int, StampedAction] = {}
    faulted = non_finite = repeated = other_size = 0
    size: int | None = None
    for action in sorted(actions, key=lambda a: a.time_ns):
        if action.fault != 0:
            faulted += 1
        elif not np.all(np.isfinite(action.action)) or action.action.size == 0:
            non_finite += 1
        elif action.observation_ns in chosen:
            repeated += 1
        elif size is not None and action.action.size != size:
            other_size += 1
        else:
            size = action.action.size
            chosen[action.observation_ns] = action
    ordered = tuple(chosen[stamp] for stamp in sorted(chosen))
    return Usable(ordered, faulted, non_finite, repeated, other_size)


@dataclass
class Frames:
    """Collects the images of one rollout as they come by, in any order.

    Args:
        wanted: usable actions of the rollout, in order of their observation stamps.
        images: (W, H, W, 3), or (W, cameras, H, W, 3) for several cameras; None before the first.
        cameras: how many there are, the main one among them.
    """

    wanted: Sequence[StampedAction]
    images: np.ndarray | None = None
    cameras: int = 1
    repeated: int = 0
    broken: int = 0
    other_size: int = 0
    _image_times: dict[int, int] = field(default_factory=dict)
    _shape: tuple[int, ...] | None = None

    def takes(self, index: int, time_ns: int) -> bool:
        """Whether the image logged at ``time_ns`` shall (re)place frame ``index``.

        Stamps repeat when a simulation restarts within one bag: of several images with the action's stamp,
        the last one logged before the action counts, else the first one after it.
        """
        if index not in self._image_times:
            return True
        self.repeated += 1
        return time_ns <= self.wanted[index].time_ns

    def put(self, index: int, time_ns: int, image: np.ndarray) -> None:
        """Store the (H, W, 3) image of frame ``index``; other sizes than the first are left out."""
        if self.images is None:
            views = () if self.cameras == 1 else (self.cameras,)
            self.images = np.zeros((len(self.wanted), *views, *image.shape), dtype=np.uint8)
        if image.shape != self.images.shape[-3:]:
            self.other_size += 1
            return
        self.images[index if self.cameras == 1 else (index, 0)] = image
        self.see(index, time_ns)

    def see(self, index: int, time_ns: int, shape: tuple[int, ...] | None = None) -> bool:
        """Note that frame ``index`` has an image, without storing it.

        Args:
            index: of the frame.
            time_ns: log time of the image.
            shape: (H, W, 3) where it is known; other sizes than the first are left out then.

        Returns:
            whether it counts.
        """
        if shape is not None and shape != (self._shape or shape):
            self.other_size += 1
            return False
        self._shape = shape or self._shape
        self._image_times[index] = time_ns
        return True

    def put_beside(self, index: int, camera: int, image: np.ndarray) -> bool:
        """Store what a further camera (1, 2, ...) showed beside the image of frame ``index``, which is there already.

        Returns:
            whether it has the size of the main camera's.
        """
        if self.images is None or image.shape != self.images.shape[-3:]:
            return False
        self.images[index, camera] = image
        return True

    def matched(self) -> np.ndarray:
        """(K,) indices of the frames that have their image."""
        return np.array(sorted(self._image_times), dtype=np.int64)
