"""VLA-Forget: staged edits of visual encoder, projector and language blocks (arXiv 2604.03956).

Minimises  L_retain + lambda_feat L_feat - lambda_f L_forget - lambda_m L_mismatch  in three stages, each on the
layers that its score chooses, each kept or rolled back at its end. What the paper leaves open is in
docs/adr/staged-edit.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from vlaforget_ros.unlearning import objective, pcgrad
from vlaforget_ros.unlearning.gates import Gates, damage_gates, passed
from vlaforget_ros.unlearning.losses import counterfactual_term, kept_sets
from vlaforget_ros.unlearning.methods.base import Method
from vlaforget_ros.unlearning.parameters import STAGES, MethodParameters, StageName
from vlaforget_ros.unlearning.pcgrad import Surgery
from vlaforget_ros.unlearning.ranking import rank
from vlaforget_ros.unlearning.records import Check
from vlaforget_ros.unlearning.rounds import Judge, RoundPlan, Runner
from vlaforget_ros.unlearning.scores import LayerScore
from vlaforget_ros.unlearning.steps import Gradient
from vlaforget_ros.unlearning.views import Terms, View, Views


class VlaForgetParameters(MethodParameters):
    """Parameters of ``vla_forget``; the defaults are not the (unpublished) ones of the paper."""

    lambda_f: float = Field(default=1.0, ge=0, description="weight of L_forget")
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
    alpha: float = Field(default=1.0, ge=0, description="exponent of (1 - cos) in the layer score phi")
    selection: Literal["score", "all"] = Field(
        default="score", description="layers by score and top k, or every layer of a stage at once"
    )
    top_k_visual: int = Field(default=1, ge=1)
    top_k_projector: int = Field(default=2, ge=1)
    top_k_language: int = Field(default=3, ge=1)
    upper_share: float = Field(
        default=0.67, gt=0, le=1, description="share of language blocks, from the top, ranked first"
    )
    max_rounds: int = Field(default=2, ge=1, le=6, description="rounds of expansion in the language stage")
    steps_visual: int = Field(default=40, ge=1)
    steps_projector: int = Field(default=40, ge=1)
    steps_language: int = Field(default=200, ge=1, description="steps of each round")
    pcgrad: bool = True
    stages: tuple[StageName, ...] = STAGES
    min_gain: float = Field(
        default=0.02, ge=0, description="share by which a stage must lower undesired motions, or raise FC"
    )

    min_share: float = Field(
        default=0.25,
        ge=0,
        le=1,
        description="share of the undesired motions that a stage before the last must remove; 0: min_gain alone",
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


class VlaForget(Method[VlaForgetParameters]):
    """The staged edit."""

    key = "vla_forget"
    title = "staged edit of encoder, projector and language blocks"
    source = "arXiv 2604.03956"
    Parameters = VlaForgetParameters

    def forget(self, views: Views) -> Terms:
        """-lambda_f L_forget and -lambda_m L_mismatch on D_f."""
        p, view = self.parameters, views["forget"]
        terms: Terms = {}
        if p.lambda_f > 0:
            loss = objective.forget_loss(
                view.motion, view.motion_reference, view.mask, p.forget_form, p.npo_beta, p.nll_cap
            )
            terms["forget"] = p.lambda_f * loss.mean()
        if p.lambda_m > 0:
            loss = objective.mismatch_loss(view.log_probs, view.reference, view.mask, p.mismatch_cap)
            terms["mismatch"] = p.lambda_m * loss.mean()
        return terms

    def retain(self, views: Views) -> Terms:
        """L_retain (cross-entropy, KL, counterfactual) and lambda_feat L_feat."""
        p = self.parameters
        terms: Terms = {"retain": views["retain"].cross_entropy(p.label_sigma_bins).mean()}
        terms.update(counterfactual_term(views, p))
        kept = kept_sets(views)
        if p.kl_weight > 0:
            values = [
                objective.kl_divergence(
                    objective.sharpened(view.reference, p.kl_sharpness), view.log_probs, view.labelled
                )
                for view in kept
            ]
            terms["kl"] = p.kl_weight * torch.cat(values).mean()
        if p.lambda_feat > 0:
            features = [loss for view in kept for loss in _feature_losses(view)]
            if features:
                terms["feature"] = p.lambda_feat * torch.stack(features).mean()
        return terms

    def surgery(self, forget: Gradient, retain: Gradient) -> Surgery:
        """PCGrad between the two groups."""
        return pcgrad.combine(forget, retain, self.parameters.pcgrad)

    def plan(self) -> list[tuple[str, int, int]]:
        """The stages."""
        p = self.parameters
        return [(stage, p.steps(stage), p.rounds(stage)) for stage in p.stages]

    def schedule(self, runner: Runner, before: Check) -> Check:
        """The stages, in order."""
        for stage in self.parameters.stages:
            before = self._stage(stage, runner, before)
        return before

    def _stage(self, stage: StageName, runner: Runner, before: Check) -> Check:
        """One stage: its rounds, and what holds afterwards.

        The visual and the projector stage have one round. The language stage starts with the top k layers and adds
        one in each further round, until the forget gates hold or ``max_rounds`` is reached. A round depends on
        nothing but its number, the seed and what was kept before, so an edit that was interrupted ends with the
        same bits as one that was not.
        """
        bench, p = runner.bench, self.parameters
        ranked: list[LayerScore] = []
        kept = bench.adapter.tensors()
        for number in range(1, p.rounds(stage) + 1):
            done = runner.finished(stage, number)
            if done is not None:
                ranked = [LayerScore(**row) for row in done.scores]
            elif bench.guard.out_of_time():
                break
            else:
                ranked = ranked or rank(bench, stage, p.alpha, p.upper_share)
                count = len(ranked) if p.selection == "all" else p.top_k(stage) + number - 1
                layers = [score.layer for score in ranked[:count]]
                done = runner.run(
                    RoundPlan(
                        stage, number, layers, p.steps(stage), self.gradients, ranked, self._judge(stage)
                    ),
                    before,
                )
            before = Check.parse(done.holds)
            kept = bench.adapter.tensors() if done.kept else kept
            if done.forgotten and done.kept:
                break
        # A round that failed is carried on from (damage often heals in the next one); it does not outlive its stage.
        bench.adapter.load(kept)
        return before

    def _judge(self, stage: StageName) -> Judge:
        p = self.parameters
        return partial(judge, min_gain=p.min_gain, min_share=0.0 if stage == p.stages[-1] else p.min_share)


def judge(
    before: Check, after: Check, gates: Gates, min_gain: float, min_share: float = 0.0
) -> tuple[bool, str]:
    """Whether a round is kept: no damage, progress in forgetting, no step away from the right motions.

    Progress is one of two: undesired motions are less likely by ``min_gain`` of what they were, or FC is up by that
    share of all frames. A round that repairs may put other motions on top while the mass of the undesired ones,
    small already, wavers.

    A stage that others follow must, with ``min_share``, remove that share of the undesired motions. Where the cause is
    not in its layers it moves some frames and costs agreement on retained ones, and a later stage, which has to take
    the behaviour out in any case, does not need it.

    Returns:
        verdict, reason.
    """
    damage = damage_gates(gates, after.metrics)
    if not passed(damage):
        failed = ", ".join(
            f"{g.name}: {g.value:.3g}, limit {g.limit:g}" for g in damage if g.verdict == "failed"
        )
        return False, f"rolled back: damage ({failed})"
    gain = 100.0 * (before.undesired - after.undesired) / max(before.undesired, 1e-12)
    progress = (
        f"undesired motions {gain:.1f} % less likely, FC {before.metrics.fc:.1f} → {after.metrics.fc:.1f} %"
    )
    if gain < 100.0 * min_gain and after.metrics.fc - before.metrics.fc < max(100.0 * min_gain, 1e-9):
        return False, f"rolled back: {progress}"
    if min_share > 0 and gain < 100.0 * min_share:
        return False, f"rolled back: the cause is elsewhere ({progress}; limit {100.0 * min_share:g} %)"
    if _is_worse(before.counterfactual, after.counterfactual):
        return False, "rolled back: further away from the counterfactual actions"
    return True, f"kept: {progress}"


def _is_worse(before: float | None, after: float | None) -> bool:
    return before is not None and after is not None and after > before


def _feature_losses(view: View) -> Sequence[Tensor]:
    """One value for each kind of feature that the present stage can change."""
    losses = []
    output = view.output
    if output.visual is not None and output.visual.requires_grad:
        losses.append(_feature_loss(output.visual, view.bank.features.visual, view))
    if output.projected is not None and output.projected.requires_grad:
        losses.append(_feature_loss(output.projected, view.bank.features.projected, view))
    return losses


def _feature_loss(present: Tensor, original: Tensor, view: View) -> Tensor:
    """Mean over a batch; the features of all frames of the original policy are in host memory."""
    return objective.feature_loss(present, original[view.index].to(present.device)).mean()
