"""What an engineer may turn in a staged edit, with units, ranges and the reason for each default."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

StageName = Literal["visual", "projector", "language"]
STAGES: tuple[StageName, ...] = ("visual", "projector", "language")


class Strict(BaseModel):
    """Base of everything that is read from a request: unknown fields are errors, values never change."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class VlaForgetParameters(Strict):
    """Parameters of method ``vla_forget`` (docs/unlearning.md has the formulae the names refer to).

    The defaults were chosen on the embedded policy; they are not the (unpublished) ones of the paper.
    """

    lambda_f: float = Field(default=0.3, ge=0, description="weight of L_forget")
    lambda_m: float = Field(default=0.05, ge=0, description="weight of L_mismatch")
    lambda_feat: float = Field(default=0.5, ge=0, description="weight of L_feat")
    kl_weight: float = Field(
        default=10.0, ge=0, description="weight of KL(pi_0 || pi) on retain and boundary data"
    )
    kl_sharpness: float = Field(
        default=3.0,
        ge=1,
        description="power of pi_0 in that KL; more than 1 keeps the most likely motion on top",
    )
    counterfactual_weight: float = Field(
        default=3.0, ge=0, description="weight of the counterfactual data in L_retain"
    )
    forget_form: Literal["npo", "clipped", "ascent"] = "npo"
    npo_beta: float = Field(
        default=1.0, gt=0, description="inverse temperature of NPO; larger saturates earlier"
    )
    nll_cap: float = Field(
        default=6.0, gt=0, description="nats per token beyond which `clipped` pushes no more"
    )
    mismatch_cap: float = Field(
        default=4.0, gt=0, description="nats per token beyond which L_mismatch pushes no more"
    )
    forget_window_bins: int = Field(
        default=6, ge=0, le=64, description="bins either side that count as the same motion"
    )
    label_sigma_bins: float = Field(
        default=3.0, ge=0, description="width of the soft labels in bins; 0 = one-hot"
    )
    alpha: float = Field(default=1.0, ge=0, description="exponent of (1 - cos) in the layer score phi")
    top_k_visual: int = Field(default=1, ge=1)
    top_k_projector: int = Field(default=2, ge=1)
    top_k_language: int = Field(default=3, ge=1)
    upper_share: float = Field(
        default=0.67, gt=0, le=1, description="share of language blocks, from the top, ranked first"
    )
    max_rounds: int = Field(default=2, ge=1, le=6, description="rounds of expansion in the language stage")
    rank: int = Field(default=16, ge=1, le=256)
    lora_alpha: int = Field(default=32, gt=0)
    learning_rate: float = Field(default=2e-3, gt=0, le=1)
    gradient_clip: float = Field(default=1.0, gt=0, description="largest norm of one step's gradient")
    steps_visual: int = Field(default=40, ge=1)
    steps_projector: int = Field(default=40, ge=1)
    steps_language: int = Field(default=200, ge=1, description="steps of each round")
    batch_forget: int = Field(default=24, ge=1)
    batch_retain: int = Field(default=96, ge=1)
    batch_boundary: int = Field(default=48, ge=1)
    batch_counterfactual: int = Field(default=32, ge=1)
    pcgrad: bool = True
    stages: tuple[StageName, ...] = STAGES
    score_frames: int = Field(default=128, ge=1, description="frames of each set behind a layer score")
    holdout: float = Field(default=0.15, gt=0, lt=1, description="share of each set kept for evaluation only")
    evaluation_frames: int = Field(
        default=512, ge=1, description="held-out frames of each set used at a stage's end"
    )
    min_gain: float = Field(
        default=0.02, ge=0, description="share by which a stage must lower undesired motions, or raise FC"
    )
    cache_mb: int = Field(
        default=1024, ge=0, description="memory for cached hidden states; beyond it they are recomputed"
    )

    @field_validator("stages")
    @classmethod
    def _in_order(cls, stages: tuple[StageName, ...]) -> tuple[StageName, ...]:
        if not stages or list(stages) != [stage for stage in STAGES if stage in stages]:
            raise ValueError(f"give one or more of {', '.join(STAGES)}, each once and in this order")
        return stages

    def top_k(self, stage: StageName) -> int:
        """How many layers a stage edits at first."""
        return {
            "visual": self.top_k_visual,
            "projector": self.top_k_projector,
            "language": self.top_k_language,
        }[stage]

    def rounds(self, stage: StageName) -> int:
        """How many rounds a stage may have."""
        return self.max_rounds if stage == "language" else 1

    def steps(self, stage: StageName) -> int:
        """Optimiser steps of a stage, or of one round of the language stage."""
        return {
            "visual": self.steps_visual,
            "projector": self.steps_projector,
            "language": self.steps_language,
        }[stage]
