"""FLAT: forget data only, by the f-divergence between a template answer and the forget answer (Wang et al. 2025,
arXiv 2410.11143, eq. 5).

L = -g*(P(template)) + f*(g*(P(forget))), with P the mean over tokens of the probability of a motion. Total variation:
g*(v) = tanh(v) / 2, f*(u) = u. KL: g*(v) = v, f*(u) = exp(u - 1). The template is the action that holds the arm
where it is, or, where it is known what should have been done, that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from vlaforget_ros.errors import ErrorCode, UnlearningError
from vlaforget_ros.unlearning.losses import counterfactual_term
from vlaforget_ros.unlearning.methods.base import JointMethod
from vlaforget_ros.unlearning.objective import motion_log_prob, token_mean
from vlaforget_ros.unlearning.parameters import JointParameters
from vlaforget_ros.unlearning.views import Terms, Views
from vlaforget_ros.unlearning.workbench import Workbench


class FlatParameters(JointParameters):
    """Parameters of ``flat``."""

    learning_rate: float = Field(default=3e-4, gt=0, le=1)
    divergence: Literal["tv", "kl"] = Field(default="tv", description="total variation or Kullback-Leibler")
    template: Literal["hold", "desired"] = Field(
        default="hold", description="the safe answer; `desired` needs a repair source that asks the policy"
    )


class Flat(JointMethod[FlatParameters]):
    """L = FLAT(D_f) [+ w CE(D_c)]."""

    key = "flat"
    title = "a safe answer instead of the forget answer, no retain data"
    source = "arXiv 2410.11143"
    Parameters = FlatParameters

    def __init__(self, parameters: FlatParameters) -> None:
        super().__init__(parameters)
        self._template = torch.zeros(0, dtype=torch.long)

    def start(self, bench: Workbench, modules: Sequence[str]) -> None:
        """The template's bins for every frame of D_f. Raises UnlearningError 300 where there is no such template."""
        bank = bench.banks["forget"]
        desired = bank.frames.desired
        if self.parameters.template == "desired":
            if desired is None:
                raise UnlearningError(
                    ErrorCode.UNLEARNING_BAD_REQUEST,
                    "bad request: parameters.template: what should have been done is not known",
                    value="desired",
                    limit="hold, or a counterfactual source with ask_policy",
                    remedy="use template hold, or a source of kind transplant or neighbour",
                )
            self._template = bank.bins_of(desired)
        else:
            states = bank.frames.states
            told = [None] * len(bank) if states is None else list(states)
            self._template = bank.bins_of(np.stack([bench.policy.hold_action(state) for state in told]))

    def forget(self, views: Views) -> Terms:
        """The variational f-divergence, over the undesired tokens of D_f."""
        view = views["forget"]
        template = motion_log_prob(view.log_probs, self._template[view.index], view.bank.window)
        good, bad = (token_mean(value.exp(), view.mask) for value in (template, view.motion))
        return {"forget": flat_loss(good, bad, self.parameters.divergence).mean()}

    def retain(self, views: Views) -> Terms:
        """Counterfactual data only."""
        return counterfactual_term(views, self.parameters)


def flat_loss(template: Tensor, forget: Tensor, divergence: str) -> Tensor:
    """(N,) -g*(P(template)) + f*(g*(P(forget))) from the mean token probabilities of both."""
    if divergence == "tv":
        return -0.5 * torch.tanh(template) + 0.5 * torch.tanh(forget)
    return -template + torch.exp(forget - 1.0)
