"""All layers of a component in the order in which an edit should take them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from vlaforget_ros.unlearning.lora import linear
from vlaforget_ros.unlearning.parameters import StageName
from vlaforget_ros.unlearning.scores import LayerScore, score_layers
from vlaforget_ros.unlearning.views import View
from vlaforget_ros.unlearning.workbench import Workbench


def rank(bench: Workbench, stage: StageName, alpha: float, upper_share: float) -> list[LayerScore]:
    """Layers of a component, best first; none may carry factors yet.

    Args:
        bench: the policy under edit.
        stage: the component.
        alpha: exponent of phi.
        upper_share: share of the language blocks, from the top, that come first.
    """
    layers = bench.layers[stage]
    names = [layer.name for layer in layers]
    gradients = {
        name: weight_gradients(bench, name, {layer.name: layer.modules for layer in layers})
        for name in ("forget", "retain")
    }
    weights = {layer.name: [linear(bench.policy.model, m).weight for m in layer.modules] for layer in layers}
    kind = "sig" if stage == "language" else "phi"
    scores = score_layers(weights, gradients["forget"], gradients["retain"], kind, alpha)
    return upper_first(scores, names, upper_share) if stage == "language" else scores


def weight_gradients(
    bench: Workbench, name: str, modules: Mapping[str, tuple[str, ...]]
) -> dict[str, Sequence[Tensor]]:
    """Gradient of the mean negative log-likelihood of a set's recorded motions, on its scoring frames.

    Args:
        bench: the policy under edit.
        name: of the set.
        modules: layer -> its linear modules.

    Returns:
        layer -> one gradient for each module's weight.
    """
    bench.enter_at(bench.network.entry(modules), limit_mb=0)
    flat = [linear(bench.policy.model, m).weight for own in modules.values() for m in own]
    for weight in flat:
        weight.requires_grad_(True)
    loss = View(bench.banks[name], bench.score_rows(name)).nll.mean()
    gradients = iter(torch.autograd.grad(loss, flat))
    bench.policy.model.requires_grad_(False)
    return {layer: [next(gradients) for _ in own] for layer, own in modules.items()}


def upper_first(scores: list[LayerScore], order: list[str], share: float) -> list[LayerScore]:
    """Layers of the upper share of the network first, each part in order of its score."""
    upper = set(order[len(order) - max(1, round(share * len(order))) :])
    return [s for s in scores if s.layer in upper] + [s for s in scores if s.layer not in upper]
