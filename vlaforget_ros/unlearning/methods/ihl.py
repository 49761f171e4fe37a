"""Inverted hinge loss (Cha et al. 2025, LoKU, arXiv 2408.06621, eq. 4), with its Fisher-weighted initialisation (FILA).

L = 1 + p(recorded) - max p(any other)  on D_f, plus the retain loss: bounded, and it lifts only the next most likely
choice. Here a choice is a motion, that is the mass within the window of a bin, and another motion is one whose window
does not overlap.

FILA (``fila``, section 3.3): each weight's importance is F_f / (F_r + eps), F the diagonal Fisher information; the
factors start as the low-rank approximation of W that is best when each row's error counts as much as the row's summed
importance, and the same product is taken off the weights, so that the policy starts unchanged. Taking it off is the
second, constant half of the factors: an adapter cannot change its base.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from vlaforget_ros.unlearning.fisher import diagonal_fisher
from vlaforget_ros.unlearning.methods.base import JointMethod
from vlaforget_ros.unlearning.objective import token_mean
from vlaforget_ros.unlearning.parameters import JointParameters
from vlaforget_ros.unlearning.views import Terms, Views
from vlaforget_ros.unlearning.workbench import Workbench


class IhlParameters(JointParameters):
    """Parameters of ``ihl``."""

    fila: bool = Field(
        default=False, description="Fisher-weighted initialisation; doubles the adapter's rank"
    )


class Ihl(JointMethod[IhlParameters]):
    """L = IHL(D_f) + CE(D_r and D_b) [+ w CE(D_c)]."""

    key = "ihl"
    title = "inverted hinge: next most likely motion instead (LoKU)"
    source = "arXiv 2408.06621"
    Parameters = IhlParameters

    @property
    def rank(self) -> int:
        """Twice as much with FILA: the trained half and the constant one."""
        return self.parameters.rank * (2 if self.parameters.fila else 1)

    def start(self, bench: Workbench, modules: Sequence[str]) -> None:
        """With FILA: A, B and -B beside it."""
        if not self.parameters.fila:
            return
        p, entry = self.parameters, bench.network.entry(modules)
        with bench.adapter.detached():
            forget = diagonal_fisher(bench, modules, ("forget",), p.score_frames)
            retain = diagonal_fisher(bench, modules, ("retain", "boundary"), p.score_frames)
        bench.enter_at(entry)
        with torch.no_grad():
            for place, name in enumerate(modules):
                weight = bench.adapter.original(name).detach()
                a, b = weighted_low_rank(weight, relative_importance(forget[place], retain[place]), p.rank)
                factors = bench.adapter.factors(name)
                factors[0].copy_(torch.cat([a, a]))
                factors[1].copy_(torch.cat([b, -b], dim=1) / bench.adapter.scale)

    def mask(self, bench: Workbench, modules: Sequence[str]) -> list[Tensor] | None:
        """With FILA: the second half of every factor is constant."""
        if not self.parameters.fila:
            return None
        masks = []
        for name in modules:
            for place, factor in enumerate(bench.adapter.factors(name)):
                mask = torch.ones_like(factor)
                mask.narrow(place, self.parameters.rank, self.parameters.rank).zero_()
                masks.append(mask)
        return masks

    def forget(self, views: Views) -> Terms:
        """The inverted hinge over the undesired tokens of D_f."""
        view = views["forget"]
        loss = inverted_hinge(view.log_probs, view.motion, view.bins, view.bank.window)
        return {"forget": token_mean(loss, view.mask).mean()}


def inverted_hinge(log_probs: Tensor, motion: Tensor, bins: Tensor, window: int) -> Tensor:
    """(N, A) 1 + p(recorded motion) - p(most likely other motion).

    Args:
        log_probs: (N, A, B).
        motion: (N, A) log-probability of the recorded motion.
        bins: (N, A) recorded bins.
        window: bins either side that are the same motion.
    """
    size = 2 * window + 1
    mass = functional.avg_pool1d(log_probs.exp(), size, 1, window, count_include_pad=True) * size
    distance = (torch.arange(mass.shape[-1], device=bins.device) - bins[..., None]).abs()
    other = mass.masked_fill(distance <= 2 * window, 0.0).amax(-1)
    return 1.0 + motion.exp() - other


def relative_importance(forget: Tensor, retain: Tensor) -> Tensor:
    """F_f / (F_r + eps). The authors' eps is 1e-5; here it is 1e-3 of the mean of F_r, whatever the network's scale."""
    return forget / (retain + 1e-3 * retain.mean() + torch.finfo(retain.dtype).tiny)


def weighted_low_rank(weight: Tensor, importance: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Factors (A (rank, in), B (out, rank)) that minimise sum_i w_i ||W_i - (B A)_i||^2 with a weight for each row.

    The row's weight w_i is the sum of its importance; with r_i = sqrt(w_i) the weighted problem is an ordinary one for
    diag(r) W = U S V, so A = sqrt(S) V and B = diag(1/r) U sqrt(S). Only ratios of the r_i matter. Ranks that the
    weight does not have are zeros.
    """
    rows = importance.sum(1).sqrt()
    rows = rows / rows.mean().clamp(min=torch.finfo(rows.dtype).tiny) + 1e-6
    u, s, v = torch.linalg.svd(rows[:, None] * weight, full_matrices=False)
    root = s[:rank].sqrt()
    a, b = root[:, None] * v[:rank], (u[:, :rank] * root) / rows[:, None]
    missing = rank - len(root)
    return functional.pad(a, (0, 0, 0, missing)), functional.pad(b, (0, missing))
