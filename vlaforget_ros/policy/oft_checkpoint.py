"""What lies beside the weights of an OpenVLA-OFT checkpoint: action head, projector of the state, statistics.

Upstream saves the first two as pickled state dicts. A pickle is never opened here: they are converted to safetensors
once, outside (docs/models.md), with their tensors' names as upstream wrote them. The length of a chunk, the number of
cameras and the scaling of values are constants of upstream's code for a robot; they are known here by the sizes of
action and state, and ``vlaforget.yaml`` has the last word.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from vlaforget_ros.finite import all_finite
from vlaforget_ros.policy.config import OftConfig, ProprioNormalisation
from vlaforget_ros.policy.options import FILE as OPTIONS
from vlaforget_ros.policy.options import Bounds, CheckpointOptions, Kind
from vlaforget_ros.policy.shards import file_shapes
from vlaforget_ros.policy.unusable import unusable

Shapes = Mapping[str, tuple[int, ...]]
HEAD, PROPRIO, STATISTICS = "action_head", "proprio_projector", "dataset_statistics.json"
_SIZED = (f"{HEAD}.fc2.weight", f"{PROPRIO}.fc1.weight")
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
    actions: Kind = "motion"


# By numbers of action and state. Released LIBERO policies have a wrist camera, ALOHA's two of them.
PLATFORMS = {
    (7, 8): Platform(8, 2, "q01_q99"),
    (14, 14): Platform(25, 3, "min_max", "position"),
    (7, 7): Platform(5, 1, "q01_q99"),
}


def extra_files(directory: Path) -> tuple[str, ...]:
    """Names of the files beside the weights. Raises PolicyError 207 for a part that is there twice or unsupported."""
    for part, what in _UNSUPPORTED.items():
        if _found(directory, part, ".*"):
            raise unusable(directory, f"{part}--*: {what} cannot be served")
    found = [name for part in (HEAD, PROPRIO) for name in _files(directory, part)]
    return (*found, *((STATISTICS,) if (directory / STATISTICS).is_file() else ()))


def read_shapes(directory: Path) -> Shapes:
    """Shapes of head and projector under the network's names, from the files' headers. Raises PolicyError 207."""
    found: dict[str, tuple[int, ...]] = {}
    for file in extra_files(directory):
        if file != STATISTICS:
            found.update({_named(file, key): shape for key, shape in file_shapes(directory, file).items()})
    # These two say how many numbers there are.
    for name in _SIZED:
        if len(found.get(name, (0, 0))) != 2:
            raise unusable(directory, f"{name} has shape {found[name]}, which is no matrix")
    return found


def read_tensors(directory: Path) -> Iterator[tuple[str, Tensor]]:
    """Weights of head and projector under the network's names. Raises PolicyError 207."""
    for file in extra_files(directory):
        if file == STATISTICS:
            continue
        for key, tensor in load_file(directory / file).items():
            name = _named(file, key)
            if not all_finite(tensor):
                raise unusable(directory, f"{name} in {file} holds non-finite values")
            yield name, tensor


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


def bounds_of(shapes: Shapes, options: CheckpointOptions) -> Bounds:
    """Which statistics are the ends of -1..1."""
    platform = PLATFORMS.get(_sizes(shapes))
    return options.bounds or (platform.bounds if platform else "q01_q99")


def actions_of(shapes: Shapes, options: CheckpointOptions) -> Kind:
    """Whether actions are motions or positions."""
    platform = PLATFORMS.get(_sizes(shapes))
    return options.actions or (platform.actions if platform else "motion")


def oft_config(
    directory: Path, shapes: Shapes, entry: Mapping[str, Any], options: CheckpointOptions
) -> OftConfig:
    """Chunk, cameras, scaling of the state.

    Args:
        directory: of the checkpoint, for messages.
        shapes: as :func:`read_shapes`.
        entry: statistics of the data set.
        options: of ``vlaforget.yaml``.

    Raises:
        PolicyError: 207 where the length of a chunk is unknown or the statistics of the state are missing.
    """
    sizes = _sizes(shapes)
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
        low, high = bound_names(bounds_of(shapes, options))
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


def _sizes(shapes: Shapes) -> tuple[int, int]:
    """Numbers of an action and of a state."""
    head, proprio = (shapes.get(name) for name in _SIZED)
    return head[0] if head else 0, proprio[1] if proprio else 0


def _files(directory: Path, part: str) -> list[str]:
    found, pickled = _found(directory, part, ".safetensors"), _found(directory, part, ".pt")
    if len(found) > 1:
        raise unusable(directory, f"{part} is there twice: {', '.join(found)}", "keep the one to be served")
    if pickled and not found:
        raise unusable(
            directory,
            f"{pickled[0]} is a pickle, which is never opened",
            "convert it to safetensors once (docs/models.md, OpenVLA-OFT)",
        )
    return found


def _found(directory: Path, part: str, ending: str) -> list[str]:
    return sorted(path.name for path in directory.glob(f"{part}--*{ending}"))


def _named(file: str, key: str) -> str:
    """The network's name of a tensor: without the wrappers it was trained in."""
    return f"{file.split('--')[0]}.{key.removeprefix('module.').removeprefix('model.')}"
