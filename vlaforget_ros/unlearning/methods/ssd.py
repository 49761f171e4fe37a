"""SSD: selective synaptic dampening (Foster et al. 2024, arXiv 2308.07707, eq. 4 to 6); no training.

Where F_f > alpha F_r a weight is multiplied by min(lambda F_r / F_f, 1); F is the diagonal of the empirical Fisher
information: the mean over frames of the *squared gradient of one frame*, not the square of a batch's mean gradient.
F_r is over D_r, D_b and, where there are any, D_c. The change of the weights is stored as a dense adapter.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from vlaforget_ros.unlearning.methods.base import JointMethod
from vlaforget_ros.unlearning.parameters import JointParameters
from vlaforget_ros.unlearning.views import View
from vlaforget_ros.unlearning.workbench import Workbench


class SsdParameters(JointParameters):
    """Parameters of ``ssd``; steps, batches and learning rate have no effect."""

    alpha: float = Field(default=10.0, gt=0, description="how many times F_f must exceed F_r")
    dampening: float = Field(default=1.0, gt=0, description="the authors' lambda")
    fisher_frames: int = Field(default=256, ge=1, description="training frames of each set behind F")


class Ssd(JointMethod[SsdParameters]):
    """Dampen the weights that matter much more to D_f than to what must stay."""

    key = "ssd"
    Parameters = SsdParameters
    dense = True
    STAGE = "dampening"

    def plan(self) -> list[tuple[str, int, int]]:
        """One round without steps."""
        return [(self.STAGE, 0, 1)]

    def finish(self, bench: Workbench, modules: Sequence[str]) -> None:
        """Dampen."""
        weights = [bench.adapter.original(name) for name in modules]
        entry = bench.network.entry(modules)
        with bench.adapter.detached():
            forget = self._fisher(bench, modules, ("forget",))
            retain = self._fisher(bench, modules, ("retain", "boundary", "counterfactual"))
        bench.enter_at(entry)
        for place, name in enumerate(modules):
            factor = dampening(forget[place], retain[place], self.parameters.alpha, self.parameters.dampening)
            change = (factor - 1.0) * weights[place]
            with torch.no_grad():
                bench.adapter.change(name).copy_(change / bench.adapter.scale)

    def _fisher(self, bench: Workbench, modules: Sequence[str], sets: Sequence[str]) -> list[Tensor]:
        """Mean over frames of the squared gradient of each frame's loss, one tensor for each weight."""
        bench.enter_at(bench.network.entry(modules), limit_mb=bench.parameters.cache_mb)
        weights = [bench.adapter.original(name) for name in modules]
        for weight in weights:
            weight.requires_grad_(True)
        total, frames = [torch.zeros_like(weight) for weight in weights], 0
        for name in (name for name in sets if name in bench.banks):
            order = np.random.default_rng((bench.seed, 78)).permutation(bench.rows.train[name])
            for row in order[: self.parameters.fisher_frames]:
                bench.guard.check()
                loss = _loss(View(bench.banks[name], np.array([row])), name, self.parameters.label_sigma_bins)
                for place, gradient in enumerate(torch.autograd.grad(loss, weights)):
                    total[place] += gradient.square()
                frames += 1
        bench.policy.model.requires_grad_(False)
        return [value / max(1, frames) for value in total]


def dampening(forget: Tensor, retain: Tensor, alpha: float, strength: float) -> Tensor:
    """Factor of each weight: min(strength F_r / F_f, 1) where F_f > alpha F_r, else 1."""
    factor = (strength * retain / forget.clamp(min=1e-30)).clamp(max=1.0)
    return torch.where(forget > alpha * retain, factor, torch.ones_like(factor))


def _loss(view: View, name: str, sigma: float) -> Tensor:
    return (view.nll if name == "forget" else view.cross_entropy(sigma)).sum()
