"""Which layers to edit: ratio-aware scores from gradients of the forget and the retain loss, layer by layer.

Sources: phi as in VLA-Forget (arXiv 2604.03956) and RAZOR (arXiv 2603.14819); Sig as in VLA-Forget's language
stage.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

EPSILON = 1e-8
_PIECE = 1 << 22


@dataclass(frozen=True)
class LayerScore:
    """One layer's numbers, as they go into the report.

    Args:
        layer: full name.
        weight_norm: ||theta_l||.
        forget_norm: ||g_f||, gradient of L_forget.
        retain_norm: ||g_r||, gradient of L_retain.
        cosine: cos(g_f, g_r), 0 when one vanishes.
        score: phi or Sig.
    """

    layer: str
    weight_norm: float
    forget_norm: float
    retain_norm: float
    cosine: float
    score: float

    def row(self) -> dict[str, float | str]:
        """As JSON."""
        return asdict(self)


def phi(weight_norm: float, forget_norm: float, cosine: float, alpha: float) -> float:
    """phi(l) = ||g_f|| / (||theta_l|| + eps) * (1 - cos(g_f, g_r))^alpha.

    Large where forgetting pulls hard on small weights and does not pull in the direction that retaining
    needs.
    """
    return forget_norm / (weight_norm + EPSILON) * (1.0 - cosine) ** alpha


def significance(forget_norm: float, retain_norm: float) -> float:
    """Sig(l) = ||g_f|| / (||g_r|| + eps)."""
    return forget_norm / (retain_norm + EPSILON)


def score_layers(
    weights: Mapping[str, Sequence[Tensor]],
    forget: Mapping[str, Sequence[Tensor]],
    retain: Mapping[str, Sequence[Tensor]],
    kind: str,
    alpha: float,
) -> list[LayerScore]:
    """Score every layer, best first; equal scores keep the network's order.

    Args:
        weights: layer -> its weight matrices.
        forget: layer -> gradient of L_forget with respect to each of them.
        retain: layer -> gradient of L_retain.
        kind: ``phi`` or ``sig``.
        alpha: exponent in phi.
    """
    scores = []
    for layer, matrices in weights.items():
        own = (matrices, forget[layer], retain[layer])
        norms = [math.sqrt(_dot(tensors, tensors)) for tensors in own]
        product = norms[1] * norms[2]
        cosine = _dot(forget[layer], retain[layer]) / product if product > 0 else 0.0
        value = phi(norms[0], norms[1], cosine, alpha) if kind == "phi" else significance(norms[1], norms[2])
        scores.append(LayerScore(layer, norms[0], norms[1], norms[2], cosine, value))
    return sorted(scores, key=lambda s: -s.score)


def _dot(left: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    """Of all numbers of some tensors, in double precision, of which there is never a copy of a whole tensor."""
    return sum(
        float(torch.dot(a.double(), b.double()))
        for one, other in zip(left, right, strict=True)
        for a, b in zip(
            one.detach().flatten().split(_PIECE), other.detach().flatten().split(_PIECE), strict=True
        )
    )
