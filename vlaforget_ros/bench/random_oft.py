"""What makes a random OpenVLA checkpoint one of OpenVLA-OFT: an action head and a projector of the robot's state."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from vlaforget_ros.policy.oft import ActionHead, ProprioProjector
from vlaforget_ros.policy.oft_checkpoint import HEAD, PROPRIO, STATISTICS
from vlaforget_ros.policy.options import set_options


@dataclass(frozen=True)
class Robot:
    """Sizes of the robot that the random policy is for; the default's are those of the released LIBERO policies.

    Args:
        chunk: control ticks of an answer.
        state: numbers of its state; 0: the policy is not told one.
        images: cameras.
    """

    chunk: int = 8
    state: int = 8
    images: int = 2


def add_parts(
    directory: Path,
    width: int,
    action: Mapping[str, Sequence[Any]],
    robot: Robot | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write the files beside the weights, their tensors named as upstream's, and the options that no file says.

    Args:
        directory: of an OpenVLA checkpoint; its options are kept.
        width: of the language model.
        action: statistics of a control tick's action: lists q01, q99 and mask.
        robot: sizes; the default's if None.
        seed: of the weights.
        dtype: of the weights.
    """
    robot = robot or Robot()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts: dict[str, nn.Module] = {HEAD: ActionHead(width, len(action["q01"]))}
        if robot.state:
            parts[PROPRIO] = ProprioProjector(robot.state, width)
    for name, module in parts.items():
        inner = "model." if name == HEAD else ""
        tensors = {f"module.{inner}{key}": value.to(dtype) for key, value in module.state_dict().items()}
        save_file(tensors, directory / f"{name}--100_checkpoint.safetensors")
    bounds = {"q01": [-1.0] * robot.state, "q99": [1.0] * robot.state}
    (directory / STATISTICS).write_text(json.dumps({"robot": {"action": dict(action), "proprio": bounds}}))
    set_options(directory, chunk=robot.chunk, images=robot.images)
