"""Adapters as two tensors, in which every layer has its rows: a compiled function exchanges them and stays as it is.

Hooks that look up whether a layer has a delta, of which rank and scale, make a compiled function depend on the adapter.
Here all factors of an adapter have one rank, the largest of its layers; what is missing is zeros, and adds nothing.
Scales are multiplied into the factors, so that layers of one size share their compiled code. Only its rank is left that
differs between two adapters, and a compiled function takes any rank.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from vlaforget_ros.adapters.lora import LoraWeights
from vlaforget_ros.policy.slots import AdapterSlots, Delta, StagedAdapter, require_finite
from vlaforget_ros.policy.staging import staging_to

# A compiled function takes sizes of 0 and 1 for something special.
_LEAST_RANK = 2


@dataclass(frozen=True)
class Stack:
    """The factors of all layers of one adapter.

    Args:
        a: (R, inputs of all layers), side by side.
        b: (outputs of all layers, R), one below the other, times the layers' scales.
    """

    a: Tensor
    b: Tensor

    @property
    def bytes(self) -> int:
        """Memory [B]."""
        return self.a.nbytes + self.b.nbytes


@dataclass(frozen=True)
class _Rows:
    """Where a layer's factors lie in a stack."""

    inputs: slice
    outputs: slice

    def add_to(self, stack: Stack, output: Tensor, inputs: Tensor) -> Tensor:
        """As :meth:`Delta.add_to`."""
        low = functional.linear(inputs.to(stack.a.dtype), stack.a[:, self.inputs])
        return (functional.linear(low, stack.b[self.outputs]) + output).to(output.dtype)


class StackedParts(tuple[Delta | None, ...]):
    """As of any staged adapter: views into its stack, for what is not compiled."""

    stack: Stack


def _rank(weights: LoraWeights) -> int:
    return max([_LEAST_RANK, *(module.rank for module in weights.modules.values())])


class StackedSlots(AdapterSlots):
    """As :class:`AdapterSlots`, for functions that are compiled.

    What runs uncompiled computes each delta as those slots do; what is compiled reads the stack. Each adapter needs the
    memory of one that touches all layers.
    """

    def _attach(self) -> None:
        layers = list(self._modules.values())
        ends = [
            (0, *accumulate(getattr(layer, name) for layer in layers))
            for name in ("in_features", "out_features")
        ]
        self._rows = [
            _Rows(slice(*inputs), slice(*outputs))
            for inputs, outputs in zip(*(pairwise(places) for places in ends), strict=True)
        ]
        # None: the base model. False: a batch of several adapters, which no compiled function takes.
        self._stack: Stack | bool | None = None
        super()._attach()

    def stage(self, weights: LoraWeights) -> StagedAdapter:
        """As :meth:`AdapterSlots.stage`."""
        self._require(weights)
        stack = self._zeros(_rank(weights))
        touched = {
            name: row for name, row in zip(self._modules, self._rows, strict=True) if name in weights.modules
        }
        with staging_to(self._device) as staging:
            for name, row in touched.items():
                module = weights.modules[name]
                a, b = (staging.send(tensor, torch.float32) for tensor in (module.a, module.b))
                stack.a[: module.rank, row.inputs] = a
                stack.b[row.outputs, : module.rank] = b * module.scale
                require_finite(name, stack.a.dtype, stack.a[:, row.inputs], stack.b[row.outputs])
        return self._staged(weights, stack, touched)

    def blank(self, rank: int) -> StagedAdapter:
        """An adapter that changes nothing."""
        return self._staged(LoraWeights({}), self._zeros(rank), {})

    def _needed(self, weights: LoraWeights) -> int:
        rows = self._rows[-1].inputs.stop + self._rows[-1].outputs.stop
        return rows * _rank(weights) * next(iter(self._modules.values())).weight.element_size()

    def _zeros(self, rank: int) -> Stack:
        like = next(iter(self._modules.values())).weight.detach()
        a, b = (
            like.new_zeros(rank, self._rows[-1].inputs.stop),
            like.new_zeros(self._rows[-1].outputs.stop, rank),
        )
        return Stack(a, b)

    def _staged(self, weights: LoraWeights, stack: Stack, touched: dict[str, _Rows]) -> StagedAdapter:
        parts = StackedParts(
            Delta(
                stack.a[: weights.modules[name].rank, touched[name].inputs],
                stack.b[touched[name].outputs, : weights.modules[name].rank],
                1.0,
            )
            if name in touched
            else None
            for name in self._modules
        )
        parts.stack = stack
        return StagedAdapter(weights.digest, parts, stack.bytes, self)

    def _flip(self, parts: Sequence[Any]) -> None:
        super()._flip(parts)
        self._stack = (
            parts.stack if isinstance(parts, StackedParts) else None if parts is self._none else False
        )

    def _hook(self, index: int) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor | None]:
        beside = super()._hook(index)
        rows = self._rows[index]

        def add_delta(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            if not torch.compiler.is_compiling():
                return beside(module, inputs, output)
            stack = self._stack
            return rows.add_to(stack, output, inputs[0]) if isinstance(stack, Stack) else None

        return add_delta
