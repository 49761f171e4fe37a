"""SSD: selective synaptic dampening (Foster et al. 2024, arXiv 2308.07707, eq. 4 to 6); no training.

Where F_f > alpha F_r a weight is multiplied by min(lambda F_r / F_f, 1); F is the diagonal of the empirical Fisher
information: the mean over frames of the *squared gradient of one frame*, not the square of a batch's mean gradient.
The authors take F over all training data where F_r stands here; an edit has D_r, D_b and, where there are any, D_c.
The change of the weights is stored as a dense adapter.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from vlaforget_ros.unlearning.fisher import diagonal_fisher
from vlaforget_ros.unlearning.methods.base import JointMethod
from vlaforget_ros.unlearning.parameters import JointParameters
from vlaforget_ros.unlearning.workbench import Workbench


class SsdParameters(JointParameters):
    """Parameters of ``ssd``; steps, batches and learning rate have no effect."""

    alpha: float = Field(default=10.0, gt=0, description="how many times F_f must exceed F_r")
    dampening: float = Field(default=1.0, gt=0, description="the authors' lambda")
    fisher_frames: int = Field(default=256, ge=1, description="training frames of each set behind F")


class Ssd(JointMethod[SsdParameters]):
    """Dampen the weights that matter much more to D_f than to what must stay."""

    key = "ssd"
    title = "dampen the weights that matter to D_f only, no training"
    source = "arXiv 2308.07707"
    Parameters = SsdParameters
    dense = True
    STAGE = "dampening"

    def plan(self) -> list[tuple[str, int, int]]:
        """One round without steps."""
        return [(self.STAGE, 0, 1)]

    def finish(self, bench: Workbench, modules: Sequence[str]) -> None:
        """Dampen."""
        p, entry = self.parameters, bench.network.entry(modules)
        weights = [bench.adapter.original(name) for name in modules]
        with bench.adapter.detached():
            forget = diagonal_fisher(bench, modules, ("forget",), p.fisher_frames)
            retain = diagonal_fisher(
                bench, modules, ("retain", "boundary", "counterfactual"), p.fisher_frames
            )
        bench.enter_at(entry)
        for place, name in enumerate(modules):
            factor = dampening(forget[place], retain[place], p.alpha, p.dampening)
            change = (factor - 1.0) * weights[place]
            with torch.no_grad():
                bench.adapter.change(name).copy_(change / bench.adapter.scale)


def dampening(forget: Tensor, retain: Tensor, alpha: float, strength: float) -> Tensor:
    """Factor of each weight: min(strength F_r / F_f, 1) where F_f > alpha F_r, else 1."""
    smallest = torch.finfo(forget.dtype).tiny
    factor = (strength * retain / forget.clamp(min=smallest)).clamp(max=1.0)
    return torch.where(forget > alpha * retain, factor, torch.ones_like(factor))
