"""Running out of memory, as a coded error, and keeping the garbage collector from holding up an arm."""

from __future__ import annotations

import gc

import torch

from vlaforget_ros.errors import ErrorCode, PolicyError


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that host or device memory ran out, or would have."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, PolicyError):
        return error.code == ErrorCode.POLICY_OUT_OF_MEMORY
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


def settle() -> None:
    """Take all that was loaded out of the garbage collector's sight, until :func:`unsettle`.

    A full collection looks at every object of a process, those of libraries and models too, and holds every thread
    meanwhile: long enough to miss a tick.
    """
    gc.collect()
    gc.freeze()


def unsettle() -> None:
    """Let the garbage collector see everything again: what was loaded is to be freed."""
    gc.unfreeze()
