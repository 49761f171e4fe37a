"""Task arithmetic (Ilharco et al. 2023, arXiv 2212.04089): theta = theta_0 - alpha (theta_f - theta_0).

theta_f is the policy fine-tuned on D_f; the adapter is its change, negated and scaled. With counterfactual data a
second round fine-tunes from there on D_r, D_b and D_c.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field

from vlaforget_ros.unlearning.methods.base import JointMethod
from vlaforget_ros.unlearning.parameters import JointParameters
from vlaforget_ros.unlearning.pcgrad import Surgery
from vlaforget_ros.unlearning.records import Check
from vlaforget_ros.unlearning.rounds import RoundPlan, Runner
from vlaforget_ros.unlearning.steps import Step
from vlaforget_ros.unlearning.views import Terms, Views
from vlaforget_ros.unlearning.workbench import Workbench


class TaskVectorParameters(JointParameters):
    """Parameters of ``task_vector``."""

    steps: int = Field(default=80, ge=1, description="steps of tuning, and as many of repair")
    alpha: float = Field(default=1.0, gt=0, description="length of the step back")


class TaskVector(JointMethod[TaskVectorParameters]):
    """Tune on D_f, go as far the other way."""

    key = "task_vector"
    title = "tune on D_f, go as far the other way"
    source = "arXiv 2212.04089"
    Parameters = TaskVectorParameters
    STAGE = "negate"
    REPAIR = "repair"

    def forget(self, views: Views) -> Terms:
        """Descent on the negative log-likelihood of D_f."""
        return {"forget": views["forget"].nll.mean()}

    def gradients(self, step: Step) -> Surgery:
        """D_f only."""
        return Surgery(step.gradient(self.forget), 0.0, False)

    def finish(self, bench: Workbench, modules: Sequence[str]) -> None:
        """Negate and scale the change."""
        with torch.no_grad():
            for name in modules:
                bench.adapter.factors(name)[1].mul_(-self.parameters.alpha)

    def plan(self) -> list[tuple[str, int, int]]:
        """Tuning, and repair where there is something to repair with."""
        return [(self.STAGE, self.parameters.steps, 1), (self.REPAIR, self.parameters.steps, 1)]

    def schedule(self, runner: Runner, before: Check) -> Check:
        """Tune and negate; repair."""
        before = super().schedule(runner, before)
        if "counterfactual" not in runner.bench.banks or self.parameters.counterfactual_weight == 0:
            return before
        layers = self.layers(runner.bench)
        plan = RoundPlan(self.REPAIR, 1, layers, self.parameters.steps, self._repair)
        return Check.parse((runner.finished(self.REPAIR, 1) or runner.run(plan, before)).holds)

    def _repair(self, step: Step) -> Surgery:
        return Surgery(step.gradient(self.retain), 0.0, False)
