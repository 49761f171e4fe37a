"""Whether there is room for an edit beside the policy, asked before it starts.

Weights that are mapped from their files are shared by policy and edit, and what an edit writes are factors of its own.
Others are copies (``policy/room.py``), unless a policy that serves lends its own.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vlaforget_ros.errors import ErrorCode, UnlearningError
from vlaforget_ros.policy.room import copied_mb, free_mb, weights_mb

# Without a budget, an edit may hold the weights, a quarter more, and this much. The embedded policy takes 2 GB of it;
# OpenVLA-7B, of 15 GB, needs 3.8 GB beside its weights when few frames are trained on, and more when many are cached.
BESIDE_MB = 4096.0


def memory_limit(base: Path, budget_mb: float | None) -> float:
    """Most memory [MB] of an edit: its budget, or where it names none 1.25 times the weights and ``BESIDE_MB``.

    Args:
        base: checkpoint.
        budget_mb: the request's.

    Raises:
        PolicyError: 207 for an unusable checkpoint.
    """
    return 1.25 * weights_mb(base) + BESIDE_MB if budget_mb is None else budget_mb


def require_room(
    base: Path, device: str, budget_mb: float | None, free: Callable[[str], float] = free_mb, why: str = ""
) -> None:
    """Refuse an edit whose weights alone do not fit, or leave nothing of its budget.

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
    needed, held = copied_mb(base, device), weights_mb(base)
    if budget_mb is not None and held > budget_mb:
        raise UnlearningError(
            ErrorCode.UNLEARNING_OUT_OF_MEMORY,
            "the weights alone are more than the edit may hold" + (f" ({why})" if why else ""),
            value=f"{held:.0f} MB of weights, mapped ones included, and more for activations",
            limit=f"{budget_mb:.0f} MB in budget.memory_mb: {held - budget_mb:.0f} MB are missing",
            remedy=f"raise budget.memory_mb, or leave it out: it is 1.25 times the weights and {BESIDE_MB:.0f} MB then",
        )
    left = free(device)
    if needed <= left:
        return
    raise UnlearningError(
        ErrorCode.UNLEARNING_OUT_OF_MEMORY,
        "there is no room for the edit's copy of the weights",
        value=f"{needed:.0f} MB of weights, and more for activations" + (f" ({why})" if why else ""),
        limit=f"{left:.0f} MB free on {device}: {needed - left:.0f} MB are missing",
        remedy="edit on the CPU (device: cpu), or stop what else uses the device",
    )
