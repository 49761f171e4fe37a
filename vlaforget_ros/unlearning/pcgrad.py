"""Gradient surgery between forget and retain group (Yu et al., PCGrad, arXiv 2001.06782, algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Surgery:
    """What was done to two gradients.

    Args:
        gradients: their sum after projection, one tensor per parameter.
        cosine: cosine between the two before projection, 0 when one vanishes.
        projected: whether they were in conflict.
    """

    gradients: list[Tensor]
    cosine: float
    projected: bool


def combine(forget: Sequence[Tensor], retain: Sequence[Tensor], enabled: bool = True) -> Surgery:
    """Sum of two gradients over the same parameters, without the parts that work against each other.

    If g_f . g_r < 0, then g_f loses its component along g_r and g_r its component along g_f; both projections
    use the *original* other gradient (projecting on the already projected one would make the order matter).

    Args:
        forget: gradient of the forget group, one tensor per parameter.
        retain: gradient of the retain group, same shapes.
        enabled: False adds them as they are.
    """
    dot = _dot(forget, retain)
    forget_square, retain_square = _dot(forget, forget), _dot(retain, retain)
    norms = (forget_square * retain_square).sqrt()
    cosine = float(dot / norms) if float(norms) > 0 else 0.0
    if not enabled or not cosine < 0:
        return Surgery([f + r for f, r in zip(forget, retain, strict=True)], cosine, False)
    # f - (dot/|r|^2) r  +  r - (dot/|f|^2) f
    keep_forget = 1.0 - dot / forget_square
    keep_retain = 1.0 - dot / retain_square
    return Surgery(
        [keep_forget * f + keep_retain * r for f, r in zip(forget, retain, strict=True)], cosine, True
    )


def _dot(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
    if not left:
        return torch.zeros(())
    return torch.stack([torch.sum(a * b) for a, b in zip(left, right, strict=True)]).sum()
