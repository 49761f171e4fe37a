"""Running out of memory, as a coded error."""

from __future__ import annotations

import torch

from vlaforget_ros.errors import ErrorCode, PolicyError


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that host or device memory ran out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def free_cached_memory() -> None:
    """Give memory that PyTorch only caches back to the device."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def out_of_memory(what: str) -> PolicyError:
    """The coded error (204)."""
    return PolicyError(
        ErrorCode.POLICY_OUT_OF_MEMORY,
        f"not enough memory for {what}",
        remedy="lower resident_limit, or free the device of other processes; what was active stays active",
    )
