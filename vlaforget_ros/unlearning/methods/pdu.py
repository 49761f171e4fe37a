"""PDU: primal-dual unlearning (Entesari et al. 2025, arXiv 2506.05314).

min L_f  subject to  L_r <= eps,  with L_f the mean squared margin (max - mean) of the logits on D_f, which flattens the
distribution, and L_r the retain loss. Each step descends gamma L_f + mu L_r and then moves the multiplier:
mu = max(0, mu + eta (L_r - eps)). eps is the retain loss of the original policy over all training frames, weighted as
a batch weighs the sets, times (1 + slack): on one batch alone it would be as noisy as the batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from vlaforget_ros.policy.labels import cross_entropy
from vlaforget_ros.unlearning.losses import counterfactual_term, fine_tuning_terms
from vlaforget_ros.unlearning.methods.base import JointMethod
from vlaforget_ros.unlearning.objective import token_mean
from vlaforget_ros.unlearning.parameters import JointParameters
from vlaforget_ros.unlearning.pcgrad import Surgery
from vlaforget_ros.unlearning.steps import Step
from vlaforget_ros.unlearning.views import Terms, Views
from vlaforget_ros.unlearning.workbench import Workbench


class PduParameters(JointParameters):
    """Parameters of ``pdu``."""

    gamma: float = Field(default=0.1, gt=0, description="weight of the flattening loss")
    dual_start: float = Field(default=1.0, ge=0, description="multiplier of the constraint at the start")
    dual_step: float = Field(default=0.5, gt=0, description="eta, step of the multiplier")
    slack: float = Field(default=0.05, ge=0, description="how far the retain loss may rise, as a share")


class Pdu(JointMethod[PduParameters]):
    """Flatten D_f under a constraint on the retain loss."""

    key = "pdu"
    title = "flatten D_f with the retain loss as a constraint"
    source = "arXiv 2506.05314"
    Parameters = PduParameters

    def __init__(self, parameters: PduParameters) -> None:
        super().__init__(parameters)
        self._dual, self._limit = parameters.dual_start, float("nan")

    def start(self, bench: Workbench, modules: Sequence[str]) -> None:
        """eps, from what the original policy said about D_r and D_b."""
        p, values, weights = self.parameters, [], []
        for name in (name for name in ("retain", "boundary") if name in bench.banks):
            bank, rows = bench.banks[name], torch.from_numpy(bench.rows.train[name])
            bins, labelled = bank.bins[rows].cpu(), bank.labelled[rows].cpu()
            loss = cross_entropy(bank.reference[rows], bins, p.label_sigma_bins, labelled)
            values.append(float(loss.mean()))
            weights.append(min(len(rows), getattr(p, f"batch_{name}")))
        self._limit = (1.0 + p.slack) * float(np.average(values, weights=weights))
        self._dual = p.dual_start

    def forget(self, views: Views) -> Terms:
        """gamma x squared margin, over the undesired tokens of D_f."""
        view = views["forget"]
        margin = token_mean(squared_margin(view.log_probs), view.mask)
        return {"forget": self.parameters.gamma * margin.mean()}

    def retain(self, views: Views) -> Terms:
        """L_r: fine-tuning on D_r and D_b. The original policy is wrong on D_c: no constraint can start there."""
        return {"retain": fine_tuning_terms(views, self.parameters)["retain"]}

    def repair(self, views: Views) -> Terms:
        """D_c, minimised outside of the constraint."""
        return counterfactual_term(views, self.parameters)

    def gradients(self, step: Step) -> Surgery:
        """gamma grad L_f + mu grad L_r + grad of the repair; the multiplier then moves."""
        retain, repair = step.gradient(self.retain), step.gradient(self.repair)
        loss = step.losses["retain"]
        kept = [self._dual * a + b for a, b in zip(retain, repair, strict=True)]
        surgery = self.surgery(step.gradient(self.forget), kept)
        self._dual = next_dual(self._dual, loss, self._limit, self.parameters.dual_step)
        step.losses["dual"] = self._dual
        return surgery

    def state(self) -> dict[str, float]:
        """The multiplier and the constraint."""
        return {"dual": self._dual, "limit": self._limit}

    def set_state(self, state: dict[str, float]) -> None:
        """Give them back."""
        self._dual, self._limit = state["dual"], state["limit"]


def squared_margin(log_probs: Tensor) -> Tensor:
    """(N, A) (max - mean)^2 over the action tokens; the same for logits and log-probabilities."""
    return (log_probs.amax(-1) - log_probs.mean(-1)).square()


def next_dual(dual: float, loss: float, limit: float, step: float) -> float:
    """max(0, mu + eta (L_r - eps))."""
    return max(0.0, dual + step * (loss - limit))
