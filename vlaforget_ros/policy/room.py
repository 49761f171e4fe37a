"""Whether a device is there and has room: for the weights of a checkpoint before any of them is read, for an adapter's
before it is staged. Linux kills a process whose memory does not suffice, and an arm would stop.

On the CPU weights are mapped from their files as they are and need no room. Weights that are converted or rounded, and
weights on another device, are copies.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import psutil
import torch

from vlaforget_ros.errors import ErrorCode, PolicyError
from vlaforget_ros.policy import control_group
from vlaforget_ros.policy.options import read_options
from vlaforget_ros.policy.shards import Shards
from vlaforget_ros.policy.weight_only import Weights

# At least so many bytes hold a rounded weight; what rounding keeps beside it comes on top.
_ROUNDED_BYTES: dict[Weights, float] = {"int8": 1.0, "nf4": 0.5}


def require_device(device: str) -> None:
    """Refuse a device that this machine, or this PyTorch, does not have.

    Args:
        device: ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        PolicyError: 208 naming the devices that there are.
    """
    there = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    try:
        wanted = torch.device(device)
    except RuntimeError:
        wanted = None
    if wanted is not None and (wanted.type == "cpu" or f"{wanted.type}:{wanted.index or 0}" in there):
        return
    remedy = "choose one of these"
    if wanted is not None and wanted.type == "cuda":
        build = (
            "has no support for CUDA" if torch.version.cuda is None else f"is for CUDA {torch.version.cuda}"
        )
        remedy = f"set device to cpu; for a GPU, look at its driver (nvidia-smi): PyTorch {torch.__version__} {build}"
    raise PolicyError(
        ErrorCode.POLICY_BAD_PARAMETER, "device", value=device, limit=", ".join(there), remedy=remedy
    )


def require_dtype(
    directory: Path, device: str, bfloat16: Callable[[], bool] = torch.cuda.is_bf16_supported
) -> None:
    """Refuse weights of a type that a GPU cannot compute with.

    Args:
        directory: of the checkpoint.
        device: where its weights are to be.
        bfloat16: whether the GPU knows that type.

    Raises:
        PolicyError: 207 for an unusable checkpoint, 208 for its type.
    """
    if torch.device(device).type != "cuda":
        return
    chosen = read_options(directory).torch_dtype
    dtypes = Shards.open(directory).dtypes() if chosen is None else {chosen}
    if torch.bfloat16 in dtypes and not bfloat16():
        raise PolicyError(
            ErrorCode.POLICY_BAD_PARAMETER,
            "dtype",
            value=f"bfloat16 on {device}",
            limit="float16, float32 on this GPU",
            remedy="set dtype in the checkpoint's vlaforget.yaml",
        )


def free_mb(device: str) -> float:
    """Memory [MB] that a process could still take on a device; on the CPU no more than its container may have."""
    if torch.device(device).type == "cuda":
        # Without a GPU, loading says so.
        if not torch.cuda.is_available():
            return math.inf
        return torch.cuda.mem_get_info(torch.device(device))[0] / 1e6
    return min(float(psutil.virtual_memory().available) / 1e6, control_group.left_mb())


def spare_mb(device: str) -> float:
    """Memory [MB] that a process that serves could still take.

    On the CPU without what it has mapped: the system calls that available, but a policy whose weights are pushed out of
    memory reads them from the disk in every inference.
    """
    left = free_mb(device)
    if torch.device(device).type == "cuda" and torch.cuda.is_available():
        # What PyTorch keeps for its next tensors is free for them.
        left += (torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)) / 1e6
    if torch.device(device).type != "cpu":
        return left
    return left - float(getattr(psutil.Process().memory_info(), "shared", 0)) / 1e6


def require_spare(what: str, needed: int, device: str) -> None:
    """Refuse what does not fit beside a policy that serves.

    Args:
        what: is to be put there.
        needed: memory for it [B].
        device: where.

    Raises:
        PolicyError: 204 naming what is missing.
    """
    wanted, left = needed / 1e6, spare_mb(device)
    if wanted <= left:
        return
    raise PolicyError(
        ErrorCode.POLICY_OUT_OF_MEMORY,
        f"there is no room for {what}",
        value=f"{wanted:.0f} MB",
        limit=f"{left:.0f} MB free on {device}: {wanted - left:.0f} MB are missing",
        remedy="set merge_adapters to false, lower resident_limit, or stop what else uses the device; "
        "what was active stays active",
    )


def copied_mb(directory: Path, device: str, weights: Weights = "stored") -> float:
    """Weights [MB] of a checkpoint that whoever loads it holds a copy of; of rounded ones, at least.

    Args:
        directory: of the checkpoint.
        device: where its weights are to be.
        weights: how those of the language model are held.

    Raises:
        PolicyError: 207 for an unusable checkpoint.
    """
    shards, dtype = Shards.open(directory), read_options(directory).torch_dtype
    numbers = sum(math.prod(shape) for shape in shards.shapes.values())
    of_one = shards.bytes / max(numbers, 1) if dtype is None else torch.empty((), dtype=dtype).element_size()
    mapped = dtype is None and torch.device(device).type == "cpu"
    if weights == "stored":
        return 0.0 if mapped else numbers * of_one / 1e6
    rounded = sum(math.prod(shape) for name, shape in shards.shapes.items() if _is_rounded(name, shape))
    others = 0.0 if mapped else (numbers - rounded) * of_one
    return (others + rounded * min(of_one, _ROUNDED_BYTES[weights])) / 1e6


def weights_mb(directory: Path) -> float:
    """Weights [MB] of a checkpoint as they are held, mapped or copied. Raises PolicyError 207."""
    shards, dtype = Shards.open(directory), read_options(directory).torch_dtype
    if dtype is None:
        return shards.bytes / 1e6
    numbers = sum(math.prod(shape) for shape in shards.shapes.values())
    return numbers * torch.empty((), dtype=dtype).element_size() / 1e6


def require_memory(
    directory: Path,
    device: str,
    weights: Weights = "stored",
    free: Callable[[str], float] = free_mb,
) -> None:
    """Refuse a checkpoint whose weights alone do not fit.

    Args:
        directory: of the checkpoint.
        device: where its weights are to be.
        weights: how those of the language model are held.
        free: memory [MB] that is left on a device.

    Raises:
        PolicyError: 204 naming what is missing, 207 for an unusable checkpoint.
    """
    needed, left = copied_mb(directory, device, weights), free(device)
    if needed <= left:
        return
    raise PolicyError(
        ErrorCode.POLICY_OUT_OF_MEMORY,
        "there is no room for the policy's weights",
        value=f"{needed:.0f} MB of {directory.name}, and more to compute with",
        limit=f"{left:.0f} MB free on {device}: {needed - left:.0f} MB are missing",
        remedy="stop what else uses the device, set dtype to bfloat16 (vlaforget.yaml) or weights to int8 or nf4",
    )


def _is_rounded(name: str, shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 and "language_model" in name and ".layers." in name
