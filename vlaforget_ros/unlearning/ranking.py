"""All layers of a component in the order in which an edit should take them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from vlaforget_ros.policy.policy import EditableLayer
from vlaforget_ros.unlearning.lora import linear
from vlaforget_ros.unlearning.parameters import StageName
from vlaforget_ros.unlearning.portions import PORTION_MB, portions, training_passes
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
    kind = "sig" if stage == "language" else "phi"
    scores: list[LayerScore] = []
    for group in _groups(bench, layers):
        bench.told(f"ranking layers, {stage}: {len(scores)} of {len(layers)}")
        modules = {layer.name: layer.modules for layer in group}
        gradients = {name: weight_gradients(bench, name, modules) for name in ("forget", "retain")}
        weights = {layer.name: _weights(bench, layer) for layer in group}
        scores += score_layers(weights, gradients["forget"], gradients["retain"], kind, alpha)
    scores.sort(key=lambda score: -score.score)
    names = [layer.name for layer in layers]
    return upper_first(scores, names, upper_share) if stage == "language" else scores


def _weights(bench: Workbench, layer: EditableLayer) -> list[Tensor]:
    return [linear(bench.policy.model, module).weight for module in layer.modules]


def _groups(bench: Workbench, layers: Sequence[EditableLayer]) -> Iterator[list[EditableLayer]]:
    """Neighbouring layers whose gradients, of two sets and in single precision, are held at a time."""
    group: list[EditableLayer] = []
    size = 0
    for layer in layers:
        own = 8 * sum(weight.numel() for weight in _weights(bench, layer))
        if group and size + own > PORTION_MB * 1e6:
            yield group
            group, size = [], 0
        group.append(layer)
        size += own
    if group:
        yield group


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
    entry = bench.network.entry(modules)
    bench.enter_at(entry, limit_mb=0)
    flat = [linear(bench.policy.model, m).weight for own in modules.values() for m in own]
    for weight in flat:
        weight.requires_grad_(True)
    bank, rows = bench.banks[name], bench.score_rows(name)

    def summed(part: np.ndarray) -> list[Tensor]:
        bench.guard.check()
        loss = View(bank, part).nll.mean() * (len(part) / len(rows))
        return list(torch.autograd.grad(loss, flat))

    most, again = training_passes(bench.policy, entry, len(rows))
    total: list[Tensor] = []
    with bench.network.recomputing(again):
        for part, found in portions(rows, most or len(rows), summed):
            if len(part) == len(rows):
                total = found
            elif not total:
                total = [gradient.float() for gradient in found]
            else:
                for place, gradient in enumerate(found):
                    total[place] += gradient
    bench.policy.model.requires_grad_(False)
    gradients = iter(total)
    return {layer: [next(gradients) for _ in own] for layer, own in modules.items()}


def upper_first(scores: list[LayerScore], order: list[str], share: float) -> list[LayerScore]:
    """Layers of the upper share of the network first, each part in order of its score."""
    upper = set(order[len(order) - max(1, round(share * len(order))) :])
    return [s for s in scores if s.layer in upper] + [s for s in scores if s.layer not in upper]
