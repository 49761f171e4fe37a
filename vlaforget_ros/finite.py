"""Whether tensors hold numbers only, asked without a copy of them."""

from __future__ import annotations

import math

from torch import Tensor


def all_finite(*tensors: Tensor) -> bool:
    """Whether no tensor holds NaN or infinity.

    By the extremes, which NaN makes NaN: ``isfinite`` makes temporaries of the tensor's size, and weights are large.
    """
    return all(
        math.isfinite(extreme)
        for tensor in tensors
        if tensor.numel()
        for extreme in tensor.detach().aminmax()
    )
