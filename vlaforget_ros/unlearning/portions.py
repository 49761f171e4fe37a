"""Frames of a set, as many at a time as memory allows: of a large policy a few, of a small one all together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np

from vlaforget_ros.policy.footprint import Kind, frame_bytes
from vlaforget_ros.policy.memory import free_cached_memory, is_out_of_memory
from vlaforget_ros.policy.policy import VlaPolicy

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
    return max(1, min(limit, int(PORTION_MB * 1e6 / _frame_bytes(policy, kind))))


def fits(policy: VlaPolicy, kind: Kind) -> bool:
    """Whether one frame does."""
    return _frame_bytes(policy, kind) <= PORTION_MB * 1e6


def _frame_bytes(policy: VlaPolicy, kind: Kind) -> int:
    return frame_bytes(policy.config, next(policy.model.parameters()).element_size(), kind)


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
