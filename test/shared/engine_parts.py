"""What the tests of the engine share: adapters that change every layer, and the code of a refusal."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tokenizers import Tokenizer
from torch import nn

from vlaforget_ros.adapters import AdapterStore, LoraWeights
from vlaforget_ros.errors import AdapterError, ErrorCode, PolicyError
from vlaforget_ros.policy.config import PolicyConfig
from vlaforget_ros.policy.tiny import tiny_config

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


def stored_edits(store: AdapterStore, model: nn.Module, base: str, count: int) -> list[str]:
    """Digests of so many different adapters, put into the store."""
    return [
        store.add_weights(
            random_weights(model, seed, base), {"name": f"edit-{seed}", "method": "test"}
        ).digest
        for seed in range(count)
    ]


def code_of(call: Callable[[], object]) -> ErrorCode:
    with pytest.raises((AdapterError, PolicyError)) as caught:
        call()
    return caught.value.code


def one_layer(tokenizer: Tokenizer) -> PolicyConfig:
    """As small as a policy can be: a compiler takes its time for each layer."""
    config = tiny_config(tokenizer)
    tower = config.featurizer.model_copy(update={"depth": 1})
    return config.model_copy(
        update={"featurizer": tower, "language": {**config.language, "num_hidden_layers": 1}}
    )
