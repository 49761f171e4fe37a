"""Serving-side LoRA merged into copies of the layers that it touches; the base weights are never written.

An inference then costs what it costs without an adapter. The price is memory: each resident adapter has its own copy of
the layers that it changes. That is little for an edit of a few layers and a second model for one of all.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vlaforget_ros.adapters.lora import LoraModule, LoraWeights
from vlaforget_ros.errors import ErrorCode, PolicyError
from vlaforget_ros.policy.slots import AdapterSlots, require_finite
from vlaforget_ros.policy.stacked import StackedSlots
from vlaforget_ros.policy.staging import Staging
from vlaforget_ros.policy.weight_only import is_rounded


class MergedSlots(AdapterSlots):
    """As :class:`AdapterSlots`; an activation exchanges the weights that the touched layers point to.

    While an adapter is active, ``state_dict`` shows its weights. Merging and rounding happen in ``stage``, in the
    caller's thread; in single precision outputs are those of the factors up to rounding.
    """

    mixes = False

    def _attach(self) -> None:
        self._base = [module.weight for module in self._modules.values()]
        self._index = {name: index for index, name in enumerate(self._modules)}

    def _part(self, name: str, weights: LoraModule, module: nn.Linear, staging: Staging) -> Tensor:
        base = self._base[self._index[name]]
        a, b = (staging.send(tensor, torch.float32) for tensor in (weights.a, weights.b))
        merged = (base.detach().float() + weights.scale * (b @ a)).to(base.dtype)
        require_finite(name, base.dtype, merged)
        return merged

    def _needed(self, weights: LoraWeights) -> int:
        return sum(self._modules[name].weight.nbytes for name in weights.modules)

    def _flip(self, parts: Sequence[Tensor | None]) -> None:
        changes = [
            change
            for change in zip(self._modules.values(), self._base, self._active, parts, strict=True)
            if change[2] is not change[3]
        ]
        placed = 0
        try:
            for module, base, _, new in changes:
                self._place(module, base, new)
                placed += 1
        except BaseException:
            # A device without room for one more spare: half of the layers must not be another adapter's. What was
            # placed has its room, so that going back needs none.
            for module, base, old, _ in changes[:placed]:
                self._place(module, base, old)
            raise
        self._active = parts

    def _place(self, module: nn.Linear, base: nn.Parameter, merged: Tensor | None) -> None:
        # What is compiled for the base weights takes only what is like them.
        module.weight = base if merged is None else nn.Parameter(merged, base.requires_grad)


class FixedSlots(MergedSlots):
    """As :class:`MergedSlots`, with weights that stay where they are: what a CUDA graph has recorded stays valid.

    A layer gets a spare weight when an adapter first touches it, and keeps it; an activation copies into the spares.
    Only an adapter that touches a layer no other touched before moves a weight.
    """

    def _needed(self, weights: LoraWeights) -> int:
        touched = [(self._modules[name].weight, self._base[self._index[name]]) for name in weights.modules]
        return super()._needed(weights) + sum(base.nbytes for weight, base in touched if weight is base)

    def _place(self, module: nn.Linear, base: nn.Parameter, merged: Tensor | None) -> None:
        if module.weight is base:
            module.weight = nn.Parameter(torch.empty_like(base), base.requires_grad)
        with torch.no_grad():
            module.weight.copy_(base if merged is None else merged)

    def remove(self) -> None:
        """Take the adapters and the spares off the model, which then is the base model for good."""
        super().remove()
        for module, base in zip(self._modules.values(), self._base, strict=True):
            module.weight = base


def slots_for(model: nn.Module, merge: bool, compiled: bool = False) -> AdapterSlots:
    """The slots that serve a model: factors, or merged weights in the form that suits its device.

    Args:
        model: the network that serves.
        merge: whether adapters are merged into copies of the layers that they touch.
        compiled: whether functions that use the model will be compiled.

    Raises:
        PolicyError: 208 for merging into rounded weights: the copies would be as large as the weights as stored.
    """
    if not merge:
        return StackedSlots(model) if compiled else AdapterSlots(model)
    if is_rounded(model):
        raise PolicyError(
            ErrorCode.POLICY_BAD_PARAMETER,
            "adapters cannot be merged into rounded weights",
            value="merge_adapters: true",
            limit="weights: stored",
            remedy="set merge_adapters to false: adapters are then served as factors",
        )
    on_gpu = next(model.parameters()).device.type == "cuda"
    return FixedSlots(model) if on_gpu else MergedSlots(model)
