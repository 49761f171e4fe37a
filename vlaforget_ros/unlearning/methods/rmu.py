"""RMU: representation misdirection (Li et al. 2024, WMDP, arXiv 2403.03218).

L = ||h(D_f) - c u||^2 + alpha ||h(D_r) - h_0(D_r)||^2, with h the output of one language block at the positions that
predict actions (on D_f: undesired ones only) and u a random unit vector of positive entries. Only that block and the
two below it are trained, all of their linear layers (the authors: one matrix of each MLP). The authors' c = 6.5 and
alpha = 1200 are for one network: here, after adaptive RMU (arXiv 2408.06223), c is a multiple of the mean norm of
h_0(D_f), and both distances are divided by its square, so that neither coefficient depends on the network's scale.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from vlaforget_ros.unlearning.losses import counterfactual_term, kept_sets
from vlaforget_ros.unlearning.methods.base import JointMethod
from vlaforget_ros.unlearning.objective import token_mean
from vlaforget_ros.unlearning.parameters import JointParameters
from vlaforget_ros.unlearning.views import Terms, Views
from vlaforget_ros.unlearning.workbench import Workbench


class RmuParameters(JointParameters):
    """Parameters of ``rmu``; ``components`` has no effect."""

    block: int = Field(
        default=-2, description="language block whose output is steered; negative: from the top, -1 the last"
    )
    steering: float = Field(default=5.0, gt=0, description="length of c u, in norms of h_0(D_f)")
    alpha: float = Field(default=100.0, ge=0, description="weight of the retained hidden states")


class Rmu(JointMethod[RmuParameters]):
    """Steer the hidden states of D_f to a random vector, keep those of D_r and D_b."""

    key = "rmu"
    title = "hidden states of D_f to a random vector, those of D_r held"
    source = "arXiv 2403.03218"
    Parameters = RmuParameters

    def __init__(self, parameters: RmuParameters) -> None:
        super().__init__(parameters)
        self._block = 0
        self._target = torch.zeros(0)
        self._norm = 1.0
        self._original: dict[str, Tensor] = {}

    def layers(self, bench: Workbench) -> list[str]:
        """The steered block and the two below it."""
        names = [layer.name for layer in bench.layers["language"]]
        self._block = max(-len(names), min(self.parameters.block, len(names) - 1)) % len(names)
        return names[max(0, self._block - 2) : self._block + 1]

    def start(self, bench: Workbench, modules: Sequence[str]) -> None:
        """Ask the original policy for its hidden states, draw u."""
        self._original = {name: _hidden(bench, name, self._block) for name in bench.banks}
        self._norm = float(self._original["forget"].norm(dim=-1).mean())
        generator = torch.Generator().manual_seed(bench.seed)
        direction = torch.rand(self._original["forget"].shape[-1], generator=generator)
        target = self.parameters.steering * self._norm * direction / direction.norm()
        self._target = target.to(self._original["forget"].device)

    def forget(self, views: Views) -> Terms:
        """Distance of D_f's hidden states to c u, over the undesired tokens."""
        view = views["forget"]
        distance = self._distance(view.output.hidden[self._block], self._target)
        return {"forget": token_mean(distance, view.mask).mean()}

    def retain(self, views: Views) -> Terms:
        """Distance of D_r's and D_b's hidden states to the original ones."""
        values = [
            self._distance(view.output.hidden[self._block], self._original[view.bank.name][view.index])
            for view in kept_sets(views)
        ]
        terms = {"retain": self.parameters.alpha * torch.cat(values).mean()}
        return {**terms, **counterfactual_term(views, self.parameters)}

    def _distance(self, hidden: Tensor, target: Tensor) -> Tensor:
        """(N, A) squared distance in units of the squared norm."""
        return (hidden - target).square().sum(-1) / self._norm**2


@torch.no_grad()
def _hidden(bench: Workbench, name: str, block: int) -> Tensor:
    """(N, A, D) of the policy as it is, for all frames of a set."""
    bank = bench.banks[name]
    everything = np.arange(len(bank))
    parts = bank.portions(everything, lambda rows: bank.forward(rows).hidden[block], "hidden states")
    return torch.cat([part for _, part in parts])
