"""Serving-side LoRA: deltas beside the linear layers of a model, all exchanged by one assignment.

Forward hooks add the active delta to each layer's output, computed in PEFT's order of operations, so fp32
outputs are PEFT's. Modules, parameters and state_dict keys stay as they are, and with no adapter active the
hooks return None, so outputs are the base model's bit for bit. Nothing is ever merged into the base weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from vlaforget_ros.adapters.lora import LoraModule, LoraWeights
from vlaforget_ros.errors import AdapterError, ErrorCode
from vlaforget_ros.finite import all_finite
from vlaforget_ros.policy.room import require_spare
from vlaforget_ros.policy.staging import Staging, staging_to

_LM_HEAD = "lm_head"


@dataclass(frozen=True)
class Delta:
    """The delta of one layer on the model's device: ``y + scale * b (a x)``."""

    a: Tensor
    b: Tensor
    scale: float

    def add_to(self, output: Tensor, inputs: Tensor) -> Tensor:
        """Output of the layer with this delta; its operations are those of PEFT's LoRA layer."""
        low = functional.linear(inputs.to(self.a.dtype), self.a)
        return functional.linear(low, self.b).mul_(self.scale).add_(output).to(output.dtype)


@dataclass(frozen=True)
class RowDeltas:
    """The deltas of one layer where the observations of a batch have adapters of their own.

    Args:
        runs: (first, stop, delta) of neighbouring observations with one adapter; those of the base model are left out.
        count: observations of the batch.
    """

    runs: tuple[tuple[int, int, Delta], ...]
    count: int

    def add_to(self, output: Tensor, inputs: Tensor) -> Tensor:
        """Output of the layer, each row with its own delta; written into ``output``, which is nobody else's yet.

        Raises:
            ValueError: for a batch of other observations than were announced.
        """
        # An observation of several cameras is several rows of a vision tower, one behind the other.
        each, left = divmod(len(inputs), self.count)
        if left or not each:
            raise ValueError(f"{len(inputs)} rows for {self.count} observations with adapters of their own")
        for first, stop, delta in self.runs:
            rows = slice(first * each, stop * each)
            output[rows] = delta.add_to(output[rows], inputs[rows])
        return output


@dataclass(frozen=True)
class StagedAdapter:
    """An adapter that was checked and lies on the model's device, ready to be activated.

    Args:
        digest: digest of the stored adapter.
        parts: one entry per layer of the slots, None where the adapter leaves a layer alone: its delta, or its whole
            weight where the slots merge.
        bytes: device memory of the parts [B].
        owner: the slots that staged it; no others can activate it.
    """

    digest: str
    parts: tuple[Delta | Tensor | None, ...]
    bytes: int
    owner: AdapterSlots


class AdapterSlots:
    """Places for one active adapter on the linear layers of a model.

    Threads: :meth:`stage` may run in any thread while the model serves. :meth:`activate` and the model itself
    belong to one thread: an activation in the middle of a forward pass would mix two adapters.

    Observations of one batch may have adapters of their own (:meth:`activate_rows`): the base weights are then used
    once for all of them, the deltas for the rows that they belong to.

    Args:
        model: the network that serves; it keeps its modules, parameters and state_dict keys.
        module_names: linear layers that adapters may change; if None all of them but the LM head, of which serving
            computes only a few rows.

    Raises:
        AdapterError: 104 where a name is no linear layer of the model.
    """

    mixes = True
    """Whether the observations of one batch may have different adapters."""

    def __init__(self, model: nn.Module, module_names: Iterable[str] | None = None) -> None:
        linear = {name: module for name, module in model.named_modules() if _is_served_linear(module)}
        names = (
            [n for n in linear if not n.endswith(_LM_HEAD)] if module_names is None else list(module_names)
        )
        for name in names:
            if name not in linear:
                raise AdapterError(
                    ErrorCode.ADAPTER_BAD_SHAPE,
                    "not a linear layer of this model",
                    value=name,
                    limit="nn.Linear",
                )
        self._modules = {name: linear[name] for name in names}
        self._none: tuple[None, ...] = (None,) * len(names)
        self._active: Sequence[Any] = self._none
        self._handles: list[RemovableHandle] = []
        self._attach()

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """Layer name -> (out_features, in_features)."""
        return {name: (module.out_features, module.in_features) for name, module in self._modules.items()}

    def stage(self, weights: LoraWeights) -> StagedAdapter:
        """Check an adapter and copy its factors to the model's device and type; what serves is not touched.

        Raises:
            AdapterError: 104 where it does not fit the model, 105 for NaN or infinity, also after conversion
                to the model's type, 106 over the rank limit.
            PolicyError: 204 where there is no room for it.
        """
        self._require(weights)
        with staging_to(self._device) as staging:
            parts = tuple(
                self._part(name, weights.modules[name], module, staging) if name in weights.modules else None
                for name, module in self._modules.items()
            )
        return StagedAdapter(weights.digest, parts, sum(_bytes(part) for part in parts), self)

    def activate(self, staged: StagedAdapter | None) -> None:
        """Make a staged adapter, or with None the base model, serve from the next forward pass on.

        Raises:
            AdapterError: 104 for an adapter staged on another model.
        """
        self._flip(self._parts(staged))

    def activate_rows(self, staged: Sequence[StagedAdapter | None]) -> None:
        """Give each observation of the next batches its own adapter, or with None the base model.

        Where all have the same one this is :meth:`activate`, and the batch may have any size. Otherwise it must have
        the size of ``staged``; neighbours with one adapter share their work.

        Args:
            staged: one for each observation, in their order.

        Raises:
            AdapterError: 104 for an adapter staged on another model, and for different ones where they are merged:
                those cannot share a batch.
        """
        first = staged[0] if staged else None
        if all(one is first for one in staged):
            self.activate(first)
            return
        if not self.mixes:
            raise AdapterError(
                ErrorCode.ADAPTER_BAD_SHAPE,
                "merged adapters cannot share a batch",
                value=", ".join(one.digest[:12] if one else "base" for one in staged),
                limit="one adapter",
                remedy="set merge_adapters to false, or ask for one adapter after the other",
            )
        self._flip(_rows([self._parts(one) for one in staged]))

    def _parts(self, staged: StagedAdapter | None) -> Sequence[Any]:
        if staged is None:
            return self._none
        if staged.owner is not self:
            raise AdapterError(
                ErrorCode.ADAPTER_BAD_SHAPE, "the adapter was staged on another model", value=staged.digest
            )
        return staged.parts

    def show(self, staged: StagedAdapter | None) -> None:
        """As :meth:`activate`, for an adapter that was staged on a network of which this one is a twin."""
        self._flip(self._none if staged is None else staged.parts)

    def remove(self) -> None:
        """Take the adapters off the model, which then is the base model for good."""
        self._flip(self._none)
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _attach(self) -> None:
        self._handles = [
            module.register_forward_hook(self._hook(index))
            for index, module in enumerate(self._modules.values())
        ]

    @property
    def _device(self) -> torch.device:
        found = next(iter(self._modules.values()), None)
        return torch.device("cpu") if found is None else found.weight.device

    def _part(self, name: str, weights: LoraModule, module: nn.Linear, staging: Staging) -> Delta | Tensor:
        """What this adapter needs at one layer."""
        return _delta(name, weights, module, staging)

    def _require(self, weights: LoraWeights) -> None:
        """Refuse what does not fit the model or the memory, before anything is staged."""
        weights.check()
        weights.check_fits(self.shapes)
        require_spare(f"adapter {weights.digest[:12]}", self._needed(weights), str(self._device))

    def _needed(self, weights: LoraWeights) -> int:
        """Memory [B] that staging and activating an adapter takes."""
        return sum(
            (module.a.numel() + module.b.numel()) * _dtype(self._modules[name]).itemsize
            for name, module in weights.modules.items()
        )

    def _flip(self, parts: Sequence[Any]) -> None:
        self._active = parts

    def _hook(self, index: int) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor | None]:
        def add_delta(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            delta = self._active[index]
            return None if delta is None else delta.add_to(output, inputs[0])

        return add_delta


def _is_served_linear(module: nn.Module) -> bool:
    # The output projection inside nn.MultiheadAttention is never called as a module: a hook on it would do
    # nothing.
    return isinstance(module, nn.Linear) and type(module).__name__ != "NonDynamicallyQuantizableLinear"


def _dtype(layer: nn.Linear) -> torch.dtype:
    # A quantised layer has integer weights; its delta stays in float32.
    return layer.weight.dtype if layer.weight.dtype.is_floating_point else torch.float32


def _delta(name: str, module: LoraModule, layer: nn.Linear, staging: Staging) -> Delta:
    dtype = _dtype(layer)
    a, b = (staging.send(tensor, dtype) for tensor in (module.a, module.b))
    require_finite(name, dtype, a, b)
    return Delta(a, b, module.scale)


def require_finite(name: str, dtype: torch.dtype, *tensors: Tensor) -> None:
    """Raises AdapterError 105 where a tensor, in the model's type, holds NaN or infinity."""
    if not all_finite(*tensors):
        raise AdapterError(
            ErrorCode.ADAPTER_NON_FINITE,
            f"{name} overflows in the model's type",
            value=str(dtype),
            remedy="serve the base in float32 or bfloat16, or edit with a smaller scale",
        )


def _rows(parts: Sequence[Sequence[Delta | None]]) -> tuple[RowDeltas | None, ...]:
    """One entry per layer, from one sequence of parts per observation."""
    runs: list[tuple[int, int]] = []
    for index, one in enumerate(parts):
        if runs and one is parts[runs[-1][0]]:
            runs[-1] = (runs[-1][0], index + 1)
        else:
            runs.append((index, index + 1))
    found: list[RowDeltas | None] = []
    for layer in range(len(parts[0])):
        deltas = [(first, stop, delta) for first, stop in runs if (delta := parts[first][layer]) is not None]
        found.append(RowDeltas(tuple(deltas), len(parts)) if deltas else None)
    return tuple(found)


def _bytes(part: Delta | Tensor | None) -> int:
    tensors = () if part is None else (part,) if isinstance(part, Tensor) else (part.a, part.b)
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
