"""What no file of a released checkpoint says: ``vlaforget.yaml`` in its folder, written by whoever deploys it.

It belongs to the checkpoint and to its digest: serving and editing must agree about all of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vlaforget_ros.errors import did_you_mean
from vlaforget_ros.policy.unusable import unusable

FILE = "vlaforget.yaml"
Bounds = Literal["q01_q99", "min_max"]
Kind = Literal["motion", "position"]


class CheckpointOptions(BaseModel):
    """How a released checkpoint was trained, and how it is to be held in memory."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    unnorm_key: str = Field(default="", description="data set of norm_stats; needed where there are several")
    centre_crop: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="area of the image that is kept; 0.9 for models tuned with augmentation",
    )
    gripper: Literal["as_is", "libero"] = Field(
        default="as_is", description="libero: 0..1 of the model becomes +1 (close) or -1 (open)"
    )
    hold_gripper: float = Field(
        default=0.0, ge=-1, le=1, description="gripper while the arm holds, as the robot has it"
    )
    heads: tuple[Annotated[int, Field(gt=0)], ...] = Field(
        default=(), description="attention heads of each vision tower"
    )
    dtype: Literal["stored", "float32", "bfloat16", "float16"] = "stored"
    bounds: Bounds | None = Field(
        default=None, description="statistics that are -1 and 1: q01_q99 (default) or min_max"
    )
    chunk: int = Field(default=0, ge=0, description="OpenVLA-OFT: actions of a chunk; 0: by the robot")
    images: int = Field(
        default=0, ge=0, description="cameras; 0: by the robot (OpenVLA-OFT), as trained (pi0-FAST)"
    )
    state_slots: int = Field(
        default=0,
        ge=0,
        description="pi0-FAST: numbers of the state in the prompt; 0: as many as it has. lerobot before 0.5 told 32",
    )
    border: float = Field(
        default=-1.0,
        description="pi0-FAST: value around an image that is no square; lerobot before 0.5 had -3",
    )
    action_names: tuple[str, ...] = Field(
        default=(),
        description="pi0-FAST: names of an action's numbers; one with `gripper` in it is never slowed down",
    )
    actions: Kind | None = Field(
        default=None,
        description="whether numbers say how far to move, or where to be; by the robot (OpenVLA-OFT), else motion; "
        "pi0-FAST needs it",
    )

    @property
    def torch_dtype(self) -> torch.dtype | None:
        """Of the weights in memory; None: as stored."""
        return None if self.dtype == "stored" else getattr(torch, self.dtype)


def read_options(directory: Path) -> CheckpointOptions:
    """The options of a checkpoint, defaults where it has no such file.

    Raises:
        PolicyError: 207 for a file that is no such YAML, an unknown name or a bad value.
    """
    path = directory / FILE
    if not path.is_file():
        return CheckpointOptions()
    try:
        return CheckpointOptions.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")) or {})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        hint = did_you_mean(name, CheckpointOptions.model_fields)
        raise unusable(directory, f"{FILE}: {name}: {first['msg']}", f"correct {FILE}; {hint}") from error
    except (OSError, yaml.YAMLError) as error:
        raise unusable(directory, f"{FILE}: {error}", f"correct {FILE}") from error


def set_options(directory: Path, **values: object) -> None:
    """Write some of the options, whether they are valid or not; others stay. This makes it another checkpoint."""
    path = directory / FILE
    known = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    path.write_text(yaml.safe_dump({**known, **values}), encoding="utf-8")
