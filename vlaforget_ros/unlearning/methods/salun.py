"""SalUn: random labels on salient weights (Fan et al. 2024, arXiv 2310.12508, eq. 3 to 5).

Only the weights with the largest |grad NLL(D_f)| (the top 50 % over all edited layers) are trained, on random motions
in place of the undesired ones and on D_r:  L = CE(D_f, random) + alpha CE(D_r). A random motion is never the recorded
one (the authors' y' != y): its bin lies outside of the recorded motion's window.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from vlaforget_ros.policy.labels import soft_labels
from vlaforget_ros.unlearning.losses import fine_tuning_terms
from vlaforget_ros.unlearning.methods.base import JointMethod
from vlaforget_ros.unlearning.objective import token_mean
from vlaforget_ros.unlearning.parameters import JointParameters
from vlaforget_ros.unlearning.ranking import weight_gradients
from vlaforget_ros.unlearning.views import Terms, Views
from vlaforget_ros.unlearning.workbench import Workbench


class SalUnParameters(JointParameters):
    """Parameters of ``salun``."""

    learning_rate: float = Field(default=3e-4, gt=0, le=1)
    salient_share: float = Field(default=0.5, gt=0, le=1, description="share of the weights that are trained")
    alpha: float = Field(default=1.0, ge=0, description="weight of the retain loss")


class SalUn(JointMethod[SalUnParameters]):
    """Random-label fine-tuning under a gradient-magnitude mask on the weights."""

    key = "salun"
    title = "random motions on D_f, on the salient weights only"
    source = "arXiv 2310.12508"
    Parameters = SalUnParameters
    dense = True

    def __init__(self, parameters: SalUnParameters) -> None:
        super().__init__(parameters)
        self._labels = torch.zeros(0, dtype=torch.long)

    def start(self, bench: Workbench, modules: Sequence[str]) -> None:
        """Draw one random motion for each token of D_f, the same in every step."""
        bank = bench.banks["forget"]
        codec = bench.policy.codec
        self._labels = other_bins(bank.bins, codec.bins - len(codec.words), bank.window, bench.seed)

    def mask(self, bench: Workbench, modules: Sequence[str]) -> list[Tensor]:
        """1 on the salient weights."""
        entry = bench.network.entry(modules)
        with bench.adapter.detached():
            found = weight_gradients(bench, "forget", {name: (name,) for name in modules})
        bench.enter_at(entry)
        return salient([found[name][0] for name in modules], self.parameters.salient_share)

    def forget(self, views: Views) -> Terms:
        """Cross-entropy of random motions where the recorded ones are undesired."""
        view, sigma = views["forget"], self.parameters.label_sigma_bins
        labels = soft_labels(self._labels[view.index], view.log_probs.shape[-1], sigma)
        return {"forget": token_mean(-(labels * view.log_probs).sum(-1), view.mask).mean()}

    def retain(self, views: Views) -> Terms:
        """Fine-tuning, weighted."""
        terms = fine_tuning_terms(views, self.parameters)
        return {name: self.parameters.alpha * value for name, value in terms.items()}


def other_bins(bins: Tensor, count: int, window: int, seed: int) -> Tensor:
    """(N, A) one of ``count`` bins for each, evenly at random among those more than ``window`` away from it."""
    # Half of the range or more would leave bins in the middle without any other motion.
    window = min(window, count // 2 - 1)
    distance = (torch.arange(count) - bins.cpu()[..., None]).abs()
    allowed = (distance > window).float().flatten(0, -2)
    drawn = torch.multinomial(allowed, 1, generator=torch.Generator().manual_seed(seed))
    return drawn.view(bins.shape).to(bins.device)


def salient(gradients: Sequence[Tensor], share: float) -> list[Tensor]:
    """1 for the ``share`` of all elements with the largest magnitude, over all tensors together.

    Ties at the threshold are all in; elements with no gradient at all never are.
    """
    sizes = torch.cat([gradient.abs().flatten() for gradient in gradients])
    count = max(1, round(share * len(sizes)))
    threshold = sizes.kthvalue(len(sizes) - count + 1).values
    return [((g.abs() >= threshold) & (g != 0)).to(g.dtype) for g in gradients]
