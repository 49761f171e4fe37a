"""What lies beside the weights of an OpenVLA-OFT checkpoint: action head, projector of the state, statistics.

Upstream saves the first two as pickled state dicts (``action_head--STEP_checkpoint.pt``) with the prefix of the wrapper
they were trained in; they are read without executing anything. The length of a chunk, the number of cameras and the
scaling of values are constants of upstream's code for a robot; they are known here by the sizes of action and state,
and ``vlaforget.yaml`` has the last word.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlaforget_ros.policy.config import OftConfig, ProprioNormalisation
from vlaforget_ros.policy.options import FILE as OPTIONS
from vlaforget_ros.policy.options import Bounds, CheckpointOptions
from vlaforget_ros.policy.unusable import unusable

HEAD, PROPRIO, STATISTICS = "action_head", "proprio_projector", "dataset_statistics.json"
_UNSUPPORTED = {
    "noisy_action_projector": "an action head trained by diffusion",
    "vision_backbone": "FiLM layers in the vision towers",
}


@dataclass(frozen=True)
class Platform:
    """Constants of upstream's code for one robot."""

    chunk: int
    images: int
    bounds: Bounds


# By numbers of action and state. Released LIBERO policies have a wrist camera, ALOHA's two of them.
PLATFORMS = {
    (7, 8): Platform(8, 2, "q01_q99"),
    (14, 14): Platform(25, 3, "min_max"),
    (7, 7): Platform(5, 1, "q01_q99"),
}


def is_oft(directory: Path) -> bool:
    """Whether a folder has an action head beside the weights."""
    return any(directory.glob(f"{HEAD}--*.pt"))


def extra_files(directory: Path) -> tuple[str, ...]:
    """Names of the files beside the weights. Raises PolicyError 207 where a part is there twice, or not supported."""
    for part, what in _UNSUPPORTED.items():
        if any(directory.glob(f"{part}--*.pt")):
            raise unusable(directory, f"{part}--*.pt: {what} cannot be served")
    found = [name for part in (HEAD, PROPRIO) for name in _files(directory, part)]
    return (*found, *((STATISTICS,) if (directory / STATISTICS).is_file() else ()))


def read_tensors(directory: Path) -> dict[str, Tensor]:
    """Weights of head and projector under the network's names. Raises PolicyError 207."""
    found: dict[str, Tensor] = {}
    for part in (HEAD, PROPRIO):
        for file in _files(directory, part):
            try:
                state = torch.load(directory / file, map_location="cpu", weights_only=True)
                for name, tensor in state.items():
                    found[f"{part}.{name.removeprefix('module.').removeprefix('model.')}"] = tensor
            except Exception as error:  # a damaged pickle raises almost anything
                raise unusable(directory, f"{file}: {type(error).__name__}: {error}") from error
            damaged = [name for name, tensor in found.items() if not torch.isfinite(tensor).all()]
            if damaged:
                raise unusable(directory, f"{damaged[0]} in {file} holds non-finite values")
    return found


def statistics(directory: Path) -> dict[str, dict[str, Any]] | None:
    """``dataset_statistics.json`` of the fine-tuning, which takes the place of ``norm_stats``; None without one."""
    path = directory / STATISTICS
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {str(key): dict(entry) for key, entry in found.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise unusable(directory, f"{STATISTICS}: {type(error).__name__}: {error}") from error


def bounds_of(tensors: Mapping[str, Tensor], options: CheckpointOptions) -> Bounds:
    """Which statistics are the ends of -1..1."""
    platform = PLATFORMS.get(_sizes(tensors))
    return options.bounds or (platform.bounds if platform else "q01_q99")


def oft_config(
    directory: Path, tensors: Mapping[str, Tensor], entry: Mapping[str, Any], options: CheckpointOptions
) -> OftConfig:
    """Chunk, cameras, scaling of the state.

    Args:
        directory: of the checkpoint, for messages.
        tensors: as :func:`read_tensors`.
        entry: statistics of the data set.
        options: of ``vlaforget.yaml``.

    Raises:
        PolicyError: 207 where the length of a chunk is unknown or the statistics of the state are missing.
    """
    sizes = _sizes(tensors)
    platform = PLATFORMS.get(sizes)
    if platform is None and not options.chunk:
        raise unusable(
            directory,
            f"no file says how many actions a chunk has (actions of {sizes[0]} numbers, states of {sizes[1]})",
            f"write chunk: N and images: N into {OPTIONS}, as the policy was trained",
        )
    chunk = options.chunk or (platform.chunk if platform else 0)
    images = options.images or (platform.images if platform else 1)
    if not sizes[1]:
        return OftConfig(chunk=chunk, images=images)
    try:
        low, high = bound_names(bounds_of(tensors, options))
        proprio = entry["proprio"]
        bounds = ProprioNormalisation(
            low=proprio[low], high=proprio[high], mask=proprio.get("mask", [True] * len(proprio[low]))
        )
    except (KeyError, TypeError, ValueError) as error:
        raise unusable(
            directory,
            f"statistics of the state: {type(error).__name__}: {error}",
            f"copy {STATISTICS} of the fine-tuning run beside the weights",
        ) from error
    if len(bounds.low) != sizes[1]:
        raise unusable(directory, f"statistics of {len(bounds.low)} numbers for states of {sizes[1]}")
    return OftConfig(chunk=chunk, images=images, proprio=bounds)


def bound_names(bounds: Bounds) -> tuple[str, str]:
    """Keys of the statistics that are the ends of -1..1."""
    return ("min", "max") if bounds == "min_max" else ("q01", "q99")


def _sizes(tensors: Mapping[str, Tensor]) -> tuple[int, int]:
    """Numbers of an action and of a state."""
    head, proprio = tensors.get(f"{HEAD}.fc2.weight"), tensors.get(f"{PROPRIO}.fc1.weight")
    return 0 if head is None else head.shape[0], 0 if proprio is None else proprio.shape[1]


def _files(directory: Path, part: str) -> list[str]:
    found = sorted(path.name for path in directory.glob(f"{part}--*.pt"))
    if len(found) > 1:
        raise unusable(directory, f"{part} is there twice: {', '.join(found)}", "keep the one to be served")
    return found
