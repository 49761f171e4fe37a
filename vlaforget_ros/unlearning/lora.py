"""LoRA factors on chosen linear layers, through PEFT, added and taken off again layer by layer."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from vlaforget_ros.adapters.lora import LoraWeights

_NAME = "edit"


class EditAdapter:
    """The one adapter of an edit. Stages edit different modules, so their union is the finished adapter.

    Args:
        model: gets the factors; its own weights are frozen and never change.
        rank: LoRA rank.
        alpha: LoRA alpha; the delta is alpha / rank * B A.
    """

    def __init__(self, model: nn.Module, rank: int, alpha: int) -> None:
        self._model, self.rank, self.alpha = model, rank, alpha
        self._modules: list[str] = []
        model.requires_grad_(False)

    @property
    def modules(self) -> tuple[str, ...]:
        """Names of the linear layers that carry factors."""
        return tuple(self._modules)

    def add(self, modules: Sequence[str], seed: int) -> None:
        """Attach fresh factors (B = 0: the policy does not change yet) to modules that have none.

        Args:
            modules: full names of ``nn.Linear`` layers.
            seed: of the random A.
        """
        config = LoraConfig(
            r=self.rank, lora_alpha=self.alpha, target_modules=list(modules), lora_dropout=0.0, bias="none"
        )
        torch.manual_seed(seed)
        with warnings.catch_warnings():
            # PEFT warns that the model has an adapter already: stages share one on purpose.
            warnings.simplefilter("ignore")
            inject_adapter_in_model(config, self._model, adapter_name=_NAME)
        self._modules.extend(modules)
        self._model.requires_grad_(False)

    def remove(self, modules: Iterable[str]) -> None:
        """Take the factors off again; the model computes what it did before they were added, bit for bit."""
        for name in list(modules):
            parent, _, child = name.rpartition(".")
            setattr(self._model.get_submodule(parent), child, self._model.get_submodule(name).base_layer)
            self._modules.remove(name)

    def train(self, modules: Iterable[str]) -> list[nn.Parameter]:
        """Make the factors of ``modules`` trainable and all others constant; returns them, A before B."""
        self._model.requires_grad_(False)
        parameters = [factor for name in modules for factor in self._factors(name)]
        for parameter in parameters:
            parameter.requires_grad_(True)
        return parameters

    def tensors(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Copies of all factors on the CPU: module -> (A (r, in), B (out, r))."""
        return {name: _copies(self._factors(name)) for name in self._modules}

    def load(self, tensors: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Make the adapter exactly this: modules are added and removed as needed."""
        self.remove([name for name in self._modules if name not in tensors])
        absent = [name for name in tensors if name not in self._modules]
        if absent:
            self.add(absent, seed=0)
        with torch.no_grad():
            for name, values in tensors.items():
                for parameter, value in zip(self._factors(name), values, strict=True):
                    parameter.copy_(value)

    @contextmanager
    def merged(self) -> Iterator[None]:
        """Inside, the deltas are part of the weights instead of attached; afterwards all is as before.

        The original weights are kept, not recomputed: un-merging by subtraction drifts.
        """
        factors = self.tensors()
        self.remove(list(self._modules))
        layers = {name: linear(self._model, name) for name in factors}
        originals = {name: layer.weight.data for name, layer in layers.items()}
        for name, (a, b) in factors.items():
            delta = (self.alpha / self.rank) * (b @ a)
            layers[name].weight.data = originals[name] + delta.to(originals[name])
        try:
            yield
        finally:
            for name, layer in layers.items():
                layer.weight.data = originals[name]
            self.load(factors)

    def _factors(self, name: str) -> tuple[nn.Parameter, nn.Parameter]:
        layer: Any = self._model.get_submodule(name)
        return layer.lora_A[_NAME].weight, layer.lora_B[_NAME].weight


def linear(model: nn.Module, name: str) -> nn.Linear:
    """The linear layer called ``name``. Raises TypeError when it is something else."""
    layer = model.get_submodule(name)
    if not isinstance(layer, nn.Linear):
        raise TypeError(f"{name} is a {type(layer).__name__}, not a plain linear layer")
    return layer


@torch.no_grad()
def fold(model: nn.Module, weights: LoraWeights) -> None:
    """Add the deltas of an adapter to the weights of a model that serves nobody; an edit starts from the sum.

    Raises:
        AdapterError: 104 when the adapter is for another network.
    """
    known = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    weights.check_fits({name: (m.out_features, m.in_features) for name, m in known.items()})
    for name, module in weights.modules.items():
        weight = known[name].weight
        weight.add_(module.delta().to(weight.device, weight.dtype))


def _copies(factors: tuple[nn.Parameter, nn.Parameter]) -> tuple[Tensor, Tensor]:
    a, b = (factor.detach().to("cpu", copy=True).contiguous() for factor in factors)
    return a, b
