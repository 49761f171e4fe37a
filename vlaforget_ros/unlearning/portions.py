"""Frames of a set, as many at a time as memory allows: of a large policy a few, of a small one all together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from vlaforget_ros.policy.footprint import Kind, frame_bytes
from vlaforget_ros.policy.memory import free_cached_memory, is_out_of_memory
from vlaforget_ros.policy.policy import VlaPolicy

if TYPE_CHECKING:
    from vlaforget_ros.unlearning.network import Entry

Found = TypeVar("Found")
# Beside the weights: a fifteenth of OpenVLA-7B's. A fixed number, since what shares a pass changes the last digits.
PORTION_MB = 1024


def most_frames(policy: VlaPolicy, kind: Kind, limit: int) -> int:
    """How many frames go together.

    Args:
        policy: that they pass through.
        kind: of the pass.
        limit: more is not asked for.
    """
    return max(1, min(limit, int(PORTION_MB * 1e6 / frame_bytes(policy.config, _number_bytes(policy), kind))))


def training_passes(
    policy: VlaPolicy, entry: Entry, frames: int, recomputing: bool = False
) -> tuple[int, bool]:
    """How many frames go together in a pass with gradients.

    Args:
        policy: that they pass through.
        entry: from where.
        frames: of a step, all sets together.
        recomputing: compute blocks again in the backward pass even where one frame fits without.

    Returns:
        most frames, 0 where all of a step do, and whether blocks are computed again.
    """
    skipped = entry.blocks[0] if entry.stage == "language" else 0
    size, towers = _number_bytes(policy), entry.stage == "visual"
    kinds: tuple[Kind, Kind] = ("training", "recomputing")
    whole, less = (
        PORTION_MB * 1e6 / frame_bytes(policy.config, size, kind, skipped, towers) for kind in kinds
    )
    again = recomputing or whole < 1
    most = max(1, int(less if again else whole))
    return (0 if frames <= most else most), again


def _number_bytes(policy: VlaPolicy) -> int:
    return next(policy.model.parameters()).element_size()


def portions(
    rows: np.ndarray, most: int, work: Callable[[np.ndarray], Found]
) -> Iterator[tuple[np.ndarray, Found]]:
    """Work on rows, a few at a time; where memory does not suffice, from there on on half as many, down to one.

    Args:
        rows: (N,) of a set.
        most: at a time.
        work: of some of them.

    Yields:
        the rows of each portion, and what came of them.
    """
    start = 0
    while start < len(rows):
        part = rows[start : start + most]
        try:
            found = work(part)
        except Exception as error:
            if len(part) == 1 or not is_out_of_memory(error):
                raise
        else:
            yield part, found
            start += len(part)
            continue
        # Only out here is the error gone, and with it the tensors that its traceback holds.
        most = max(1, len(part) // 2)
        free_cached_memory()
