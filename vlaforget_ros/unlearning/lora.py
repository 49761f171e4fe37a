"""LoRA factors on chosen linear layers, through PEFT, added and taken off again layer by layer.

A *dense* adapter has the identity as one factor of each layer, so that the other one is the change of the weight
itself: methods that work on single weights (masks, dampening) leave the same kind of adapter as all others.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from vlaforget_ros.adapters.lora import LoraModule, LoraWeights

_NAME = "edit"


class EditAdapter:
    """The one adapter of an edit. Stages edit different modules, so their union is the finished adapter.

    Args:
        model: gets the factors; its own weights are frozen and never change.
        rank: LoRA rank.
        alpha: LoRA alpha; the delta is alpha / rank * B A, with the same alpha / rank in every layer.
        dense: one factor of each layer is the identity, constant and of the rank that takes.
    """

    def __init__(self, model: nn.Module, rank: int, alpha: int, dense: bool = False) -> None:
        self._model, self.rank, self.scale, self.dense = model, rank, alpha / rank, dense
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
        shapes = {name: tuple(linear(self._model, name).weight.shape) for name in modules}
        torch.manual_seed(seed)
        self._inject({name: min(shape) if self.dense else self.rank for name, shape in shapes.items()})
        if not self.dense:
            return
        with torch.no_grad():
            for name in modules:
                a, b = self.factors(name)
                # The larger factor is trained: as many numbers as the weight has.
                identity, change = (a, b) if a.numel() <= b.numel() else (b, a)
                identity.copy_(torch.eye(len(identity)))
                change.zero_()

    def _inject(self, ranks: Mapping[str, int]) -> None:
        for rank in sorted(set(ranks.values())):
            names = [name for name, own in ranks.items() if own == rank]
            config = LoraConfig(
                r=rank,
                # Typed int, used as a divisor only.
                lora_alpha=self.scale * rank,  # type: ignore[arg-type]
                target_modules=names,
                lora_dropout=0.0,
                bias="none",
            )
            with warnings.catch_warnings():
                # PEFT warns that the model has an adapter already: stages share one on purpose.
                warnings.simplefilter("ignore")
                inject_adapter_in_model(config, self._model, adapter_name=_NAME)
        self._modules.extend(ranks)
        self._model.requires_grad_(False)

    def remove(self, modules: Iterable[str]) -> None:
        """Take the factors off again; the model computes what it did before they were added, bit for bit."""
        for name in list(modules):
            self._put(name, self._model.get_submodule(name).base_layer)  # type: ignore[arg-type]
            self._modules.remove(name)

    def train(self, modules: Iterable[str]) -> list[nn.Parameter]:
        """Make the factors of ``modules`` trainable and all others constant; returns them, A before B."""
        self._model.requires_grad_(False)
        if self.dense:
            parameters = [self.change(name) for name in modules]
        else:
            parameters = [factor for name in modules for factor in self.factors(name)]
        for parameter in parameters:
            parameter.requires_grad_(True)
        return parameters

    def change(self, name: str) -> nn.Parameter:
        """(out, in) of a dense adapter: the change of a weight, divided by ``scale``."""
        a, b = self.factors(name)
        return b if a.numel() <= b.numel() else a

    def original(self, name: str) -> nn.Parameter:
        """(out, in) the constant weight that a module had before any factors."""
        layer: Any = self._model.get_submodule(name)
        found: nn.Parameter = getattr(layer, "base_layer", layer).weight
        return found

    def weights(self, base_digest: str) -> LoraWeights:
        """The adapter as it is now, copied and checked. Raises AdapterError 104, 105, 106."""
        modules = {name: LoraModule(a, b, self.scale * len(a)) for name, (a, b) in self.tensors().items()}
        found = LoraWeights(modules, base_digest)
        found.check()
        return found

    def tensors(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Copies of all factors on the CPU: module -> (A (r, in), B (out, r))."""
        return {name: _copies(self.factors(name)) for name in self._modules}

    def load(self, tensors: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Make the adapter exactly this: modules are added and removed as needed."""
        self.remove([name for name in self._modules if name not in tensors])
        self._inject({name: len(pair[0]) for name, pair in tensors.items() if name not in self._modules})
        with torch.no_grad():
            for name, values in tensors.items():
                for parameter, value in zip(self.factors(name), values, strict=True):
                    parameter.copy_(value)

    @contextmanager
    def detached(self) -> Iterator[None]:
        """Inside, the model is the original one; afterwards the very same factors are attached again."""
        layers = {name: self._model.get_submodule(name) for name in self._modules}
        try:
            for name, layer in layers.items():
                self._put(name, layer.base_layer)  # type: ignore[arg-type]
            yield
        finally:
            for name, layer in layers.items():
                self._put(name, layer)

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
            delta = self.scale * (b @ a)
            layers[name].weight.data = originals[name] + delta.to(originals[name])
        try:
            yield
        finally:
            for name, layer in layers.items():
                layer.weight.data = originals[name]
            self.load(factors)

    def _put(self, name: str, layer: nn.Module) -> None:
        parent, _, child = name.rpartition(".")
        setattr(self._model.get_submodule(parent), child, layer)

    def factors(self, name: str) -> tuple[nn.Parameter, nn.Parameter]:
        """(A (r, in), B (out, r)) of a module, the parameters themselves."""
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
    """Give a model that serves nobody the sums of its weights and the deltas of an adapter; an edit starts from them.

    The old weights are left as they are: they may be those that a policy in another process serves.

    Raises:
        AdapterError: 104 when the adapter is for another network.
    """
    for name, layer in _layers_of(model, weights).items():
        weight = layer.weight.data
        layer.weight.data = weight + weights.modules[name].delta().to(weight.device, weight.dtype)


@contextmanager
def folded(model: nn.Module, weights: LoraWeights | None) -> Iterator[None]:
    """Inside, the deltas of an adapter are part of the model; afterwards it is as before, bit for bit.

    Args:
        model: serves nobody.
        weights: None changes nothing.

    Raises:
        AdapterError: 104 when the adapter is for another network.
    """
    if weights is None:
        yield
        return
    originals = {layer: layer.weight.data for layer in _layers_of(model, weights).values()}
    fold(model, weights)
    try:
        yield
    finally:
        for layer, weight in originals.items():
            layer.weight.data = weight


def _layers_of(model: nn.Module, weights: LoraWeights) -> dict[str, nn.Linear]:
    """The layers that an adapter changes. Raises AdapterError 104."""
    known = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    weights.check_fits({name: (m.out_features, m.in_features) for name, m in known.items()})
    return {name: known[name] for name in weights.modules}


def _copies(factors: tuple[nn.Parameter, nn.Parameter]) -> tuple[Tensor, Tensor]:
    a, b = (factor.detach().to("cpu", copy=True).contiguous() for factor in factors)
    return a, b
