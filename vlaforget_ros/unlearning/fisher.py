"""The diagonal of the empirical Fisher information: how much single weights matter to a set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vlaforget_ros.unlearning.views import View
from vlaforget_ros.unlearning.workbench import Workbench


def diagonal_fisher(
    bench: Workbench, modules: Sequence[str], sets: Sequence[str], frames: int
) -> list[Tensor]:
    """F = mean over frames of (d/d theta of the frame's negative log-likelihood)^2, one tensor for each weight.

    The square is taken frame by frame: the square of a batch's mean gradient vanishes where frames disagree, and
    those are the weights that matter to many of them. The likelihood is that of the recorded motions, for all sets
    alike, so that F of one set can be held against F of another. Frames without an undesired token do not count.

    Args:
        bench: the policy under edit; no factors may be attached to ``modules``.
        modules: linear layers whose weights are asked about.
        sets: names of the sets, those that are not there left out.
        frames: most training frames of each set.
    """
    bench.enter_at(bench.network.entry(modules))
    weights = [bench.adapter.original(name) for name in modules]
    for weight in weights:
        weight.requires_grad_(True)
    total, count = [torch.zeros_like(weight) for weight in weights], 0
    for name in (name for name in sets if name in bench.banks):
        order = np.random.default_rng((bench.seed, 78)).permutation(bench.rows.train[name])
        for row in order[:frames]:
            bench.guard.check()
            view = View(bench.banks[name], np.array([row]))
            if not bool(view.has_undesired.any()):
                continue
            for place, gradient in enumerate(torch.autograd.grad(view.nll.sum(), weights)):
                total[place] += gradient.square()
            count += 1
    bench.policy.model.requires_grad_(False)
    return [value / max(1, count) for value in total]
