"""SCRUB with rewind (Kurmanji et al. 2023, arXiv 2302.09880, eq. 3 and section 3.3).

Alternates  max KL(pi_0 || pi) on D_f  and  min gamma CE + alpha KL(pi_0 || pi) on D_r and D_b, then only the latter, in
cycles; single steps alternate, where the authors alternate whole epochs. After each cycle the policy is measured.
Rewind: the cycle that is kept is the first in which the forget gates hold (forgetting more than that only hurts), the
last one where they never do. The authors stop at the error of a held-out set instead, which for an undesired behaviour
does not exist.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor

from vlaforget_ros.unlearning import objective
from vlaforget_ros.unlearning.losses import fine_tuning_terms, kept_sets
from vlaforget_ros.unlearning.methods.base import JointMethod
from vlaforget_ros.unlearning.parameters import JointParameters
from vlaforget_ros.unlearning.pcgrad import Surgery
from vlaforget_ros.unlearning.records import Check, Round
from vlaforget_ros.unlearning.rounds import RoundPlan, Runner
from vlaforget_ros.unlearning.steps import Step
from vlaforget_ros.unlearning.views import Terms, Views


class ScrubParameters(JointParameters):
    """Parameters of ``scrub``."""

    learning_rate: float = Field(default=3e-4, gt=0, le=1)
    steps: int = Field(default=40, ge=2, description="steps of a cycle")
    cycles: int = Field(default=4, ge=1, le=20)
    max_share: float = Field(default=0.5, gt=0, le=1, description="share of a cycle that alternates")
    alpha: float = Field(default=0.5, ge=0, description="weight of the KL on D_r and D_b")
    gamma: float = Field(default=1.0, ge=0, description="weight of the cross-entropy")


class Scrub(JointMethod[ScrubParameters]):
    """Alternating steps away from the teacher on D_f and towards it elsewhere."""

    key = "scrub"
    title = "away from the teacher on D_f, towards it elsewhere, rewind"
    source = "arXiv 2302.09880"
    Parameters = ScrubParameters
    STAGE = "cycle"

    def forget(self, views: Views) -> Terms:
        """-KL(pi_0 || pi) over the undesired tokens of D_f."""
        view = views["forget"]
        divergence = (view.reference.exp() * (view.reference - view.log_probs)).sum(-1)
        return {"forget": -objective.token_mean(divergence, view.mask).mean()}

    def retain(self, views: Views) -> Terms:
        """gamma x fine-tuning + alpha KL(pi_0 || pi)."""
        p = self.parameters
        terms = {name: p.gamma * value for name, value in fine_tuning_terms(views, p).items()}
        values = [
            objective.kl_divergence(view.reference, view.log_probs, view.labelled)
            for view in kept_sets(views)
        ]
        return {**terms, "kl": p.alpha * torch.cat(values).mean()}

    def gradients(self, step: Step) -> Surgery:
        """Odd steps of the alternating share push away, all others pull."""
        away = step.number <= self.parameters.max_share * step.total and step.number % 2 == 1
        return Surgery(step.gradient(self.forget if away else self.retain), 0.0, False)

    def plan(self) -> list[tuple[str, int, int]]:
        """The cycles."""
        return [(self.STAGE, self.parameters.steps, self.parameters.cycles)]

    def schedule(self, runner: Runner, before: Check) -> Check:
        """Run the cycles, then rewind."""
        bench = runner.bench
        held: list[tuple[Round, dict[str, tuple[Tensor, Tensor]]]] = []
        for number in range(1, self.parameters.cycles + 1):
            done = runner.finished(self.STAGE, number)
            if done is None:
                if bench.guard.out_of_time() and held:
                    break
                layers = self.layers(bench)
                plan = RoundPlan(self.STAGE, number, layers, self.parameters.steps, self.gradients)
                done = runner.run(plan, before)
            held.append((done, bench.adapter.tensors()))
        kept, tensors = next(((d, t) for d, t in held if d.forgotten), held[-1])
        bench.adapter.load(tensors)
        # What was rewound is not part of the adapter, and the record must not say so.
        runner.rounds[:] = [
            done if done.round <= kept.round else replace(done, kept=False, reason=f"rewound to {kept.name}")
            for done in runner.rounds
        ]
        runner.journal.log("rewind", to=kept.name)
        return Check.parse(kept.holds)
