"""A batch that is seen whole and passed through the network a few frames at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from vlaforget_ros.unlearning.bank import Bank
from vlaforget_ros.unlearning.network import Output
from vlaforget_ros.unlearning.views import View

Gradient = list[Tensor]


class PassedView(View):
    """A view whose outputs are leaves of the graph: no pass is kept for the backward pass, each is run again in it.

    Args:
        bank: the set.
        rows: (N,) which of its frames.
        size: most frames of one pass.
    """

    def __init__(self, bank: Bank, rows: np.ndarray, size: int) -> None:
        super().__init__(bank, rows)
        self._passes = [rows[start : start + size] for start in range(0, len(rows), size)]

    @property
    def was_asked(self) -> bool:
        """Whether any loss looked at the outputs."""
        return "output" in self.__dict__

    @property
    def leaves(self) -> list[Tensor]:
        """Outputs that depend on what is trained."""
        return [tensor for tensor in _named(self.output).values() if tensor.requires_grad]

    @cached_property
    def output(self) -> Output:
        """Outputs of all passes, cut off from the network."""
        parts: dict[str | int, list[Tensor]] = {}
        trained: set[str | int] = set()
        for rows in self._passes:
            for name, tensor in _named(self.bank.forward(rows)).items():
                parts.setdefault(name, []).append(tensor.detach())
                trained |= {name} if tensor.requires_grad else set()
        whole = {name: torch.cat(own).requires_grad_(name in trained) for name, own in parts.items()}
        hidden = {name: tensor for name, tensor in whole.items() if isinstance(name, int)}
        return Output(whole.get("visual"), whole.get("projected"), whole["logits"], hidden)

    def backward(self, above: Sequence[Tensor | None], factors: Sequence[Tensor]) -> Iterator[Gradient]:
        """Gradients of the factors, pass by pass.

        Args:
            above: gradient with respect to each of ``leaves``, None where a loss did not look at it.
            factors: what is trained.
        """
        start = 0
        for rows in self._passes:
            trained = [tensor for tensor in _named(self.bank.forward(rows)).values() if tensor.requires_grad]
            used = [
                (tensor, gradient[start : start + len(rows)])
                for tensor, gradient in zip(trained, above, strict=True)
                if gradient is not None
            ]
            start += len(rows)
            if used:
                yield gradients_of(
                    [tensor for tensor, _ in used], factors, [gradient for _, gradient in used]
                )


def _named(output: Output) -> dict[str | int, Tensor]:
    """The tensors of an output, hidden states under the number of their block."""
    features = {"visual": output.visual, "projected": output.projected}
    named: dict[str | int, Tensor] = {"logits": output.logits}
    named.update({name: tensor for name, tensor in features.items() if tensor is not None})
    named.update(output.hidden.items())
    return named


def gradients_of(
    outputs: Sequence[Tensor], factors: Sequence[Tensor], above: Sequence[Tensor] | None = None
) -> Gradient:
    """Gradients of the factors; zeros where a loss looks at a lower block only, and factors above it have none."""
    return list(
        torch.autograd.grad(outputs, factors, grad_outputs=above, allow_unused=True, materialize_grads=True)
    )
