"""Whether there is room for an edit beside the policy, asked before it starts.

On the CPU the weights of a checkpoint are mapped from their files as they are: policy and edit share them, and what an
edit writes are factors of its own. Weights that are converted, and weights on another device, are copies, unless a
policy that serves lends its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import psutil
import torch

from vlaforget_ros.errors import ErrorCode, UnlearningError
from vlaforget_ros.policy.options import read_options
from vlaforget_ros.policy.shards import Shards


def free_mb(device: str) -> float:
    """Memory [MB] that a process could still take on a device."""
    if torch.device(device).type == "cuda":
        # Without a GPU, loading says so.
        if not torch.cuda.is_available():
            return math.inf
        return torch.cuda.mem_get_info(torch.device(device))[0] / 1e6
    return float(psutil.virtual_memory().available) / 1e6


def copied_mb(base: Path, device: str) -> float:
    """Weights [MB] that an edit holds a copy of.

    Args:
        base: checkpoint.
        device: where the edit runs.

    Raises:
        PolicyError: 207 for an unusable checkpoint.
    """
    shards, dtype = Shards.open(base), read_options(base).torch_dtype
    if dtype is not None:
        numbers = sum(math.prod(shape) for shape in shards.shapes.values())
        return numbers * torch.empty((), dtype=dtype).element_size() / 1e6
    return 0.0 if torch.device(device).type == "cpu" else shards.bytes / 1e6


def require_room(
    base: Path, device: str, budget_mb: float, free: Callable[[str], float] = free_mb, why: str = ""
) -> None:
    """Refuse an edit whose weights alone do not fit.

    Args:
        base: checkpoint.
        device: where the edit runs.
        budget_mb: of the request.
        free: memory [MB] that is left on a device.
        why: the weights of the policy are not shared.

    Raises:
        PolicyError: 207 for an unusable checkpoint.
        UnlearningError: 306 naming what is missing.
    """
    needed = copied_mb(base, device)
    left, where = min((budget_mb, "in budget.memory_mb"), (free(device), f"free on {device}"))
    if needed <= left:
        return
    raise UnlearningError(
        ErrorCode.UNLEARNING_OUT_OF_MEMORY,
        "there is no room for the edit's copy of the weights",
        value=f"{needed:.0f} MB of weights, and more for activations" + (f" ({why})" if why else ""),
        limit=f"{left:.0f} MB {where}: {needed - left:.0f} MB are missing",
        remedy="edit on the CPU (device: cpu), stop what else uses the device, or raise budget.memory_mb",
    )
