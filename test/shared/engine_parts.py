"""What the tests of the engine share: adapters that change every layer, and the code of a refusal."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from vlaforget_ros.adapters import LoraWeights
from vlaforget_ros.errors import AdapterError, ErrorCode, PolicyError

TASK = "open the faucet"


def random_weights(model: nn.Module, seed: int, base: str) -> LoraWeights:
    generator = torch.Generator().manual_seed(seed)
    linear = {
        n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and not n.endswith("lm_head")
    }
    tensors = {
        name: (
            0.3 * torch.randn(4, module.in_features, generator=generator),
            0.3 * torch.randn(module.out_features, 4, generator=generator),
        )
        for name, module in linear.items()
    }
    return LoraWeights.from_tensors(tensors, alpha=8.0, base_digest=base)


def code_of(call: Callable[[], object]) -> ErrorCode:
    with pytest.raises((AdapterError, PolicyError)) as caught:
        call()
    return caught.value.code
