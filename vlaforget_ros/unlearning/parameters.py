"""What an engineer may turn in any edit, with units, ranges and the reason for each default."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field

StageName = Literal["visual", "projector", "language"]
STAGES: tuple[StageName, ...] = ("visual", "projector", "language")


class Strict(BaseModel):
    """Base of everything that is read from a request: unknown fields are errors, values never change."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class MethodParameters(Strict):
    """Parameters that every method has; each method's own are beside its formula.

    The defaults were chosen on the embedded policy.
    """

    counterfactual_weight: float = Field(
        default=3.0, ge=0, description="weight of the counterfactual data in L_retain"
    )
    forget_window_bins: int = Field(
        default=6, ge=0, le=64, description="bins either side that count as the same motion"
    )
    label_sigma_bins: float = Field(
        default=3.0, ge=0, description="width of the soft labels in bins; 0 = one-hot"
    )
    rank: int = Field(default=16, ge=1, le=256)
    lora_alpha: int = Field(default=32, gt=0)
    learning_rate: float = Field(default=2e-3, gt=0, le=1)
    gradient_clip: float = Field(default=1.0, gt=0, description="largest norm of one step's gradient")
    batch_forget: int = Field(default=24, ge=1)
    batch_retain: int = Field(default=96, ge=1)
    batch_boundary: int = Field(default=48, ge=1)
    batch_counterfactual: int = Field(default=32, ge=1)
    micro_batch: int = Field(
        default=0, ge=0, description="most frames of a set in one pass; 0: as many as a gigabyte holds"
    )
    autocast: Literal["off", "bf16"] = Field(default="off", description="precision of training passes")
    gradient_checkpointing: bool = Field(
        default=False, description="recompute blocks in the backward pass: slower, less memory"
    )
    holdout: float = Field(default=0.15, gt=0, lt=1, description="share of each set kept for evaluation only")
    evaluation_frames: int = Field(
        default=512, ge=1, description="held-out frames of each set used at a stage's end"
    )
    score_frames: int = Field(
        default=128, ge=1, description="frames of each set behind a layer score or mask"
    )
    cache_mb: int = Field(
        default=1024, ge=0, description="memory for cached hidden states; beyond it they are recomputed"
    )
    checkpoint_steps: int = Field(
        default=50, ge=1, description="an unfinished round is on disk after every so many steps"
    )

    def token_by_token(self) -> Self:
        """The same for tokens whose neighbours are other motions: no window around one, labels of one token."""
        return self.model_copy(update={"forget_window_bins": 0, "label_sigma_bins": 0.0})


class JointParameters(MethodParameters):
    """Parameters of the methods that train all chosen layers at once."""

    learning_rate: float = Field(default=1e-3, gt=0, le=1)
    components: tuple[StageName, ...] = Field(
        default=STAGES, description="components whose layers are edited"
    )
    steps: int = Field(default=160, ge=1)
