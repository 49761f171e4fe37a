"""One optimiser step: its batches, and the gradient of any loss on them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from vlaforget_ros.unlearning.bank import Bank
from vlaforget_ros.unlearning.views import Terms, View, Views

Gradient = list[Tensor]


@dataclass
class Step:
    """What a method needs to make one step.

    Args:
        number: from 1.
        total: steps of the round.
        banks: the sets.
        rows: the batch of each set.
        factors: what is trained.
        micro_batch: most frames of a set in one forward and backward pass; 0: all at once.
        losses: value of every term that a gradient was taken of, by name.
    """

    number: int
    total: int
    banks: Mapping[str, Bank]
    rows: Mapping[str, np.ndarray]
    factors: Sequence[nn.Parameter]
    micro_batch: int = 0
    losses: dict[str, float] = field(default_factory=dict)

    def gradient(self, loss: Callable[[Views], Terms]) -> Gradient:
        """Gradient of the sum of a loss's terms, zeros where it has none; the mean over micro-batches.

        Args:
            loss: from views of the batches to weighted terms.
        """
        total: Gradient = [torch.zeros_like(factor) for factor in self.factors]
        values: dict[str, float] = {}
        parts = self._parts()
        for views in parts:
            terms = loss(views)
            if not terms:
                break
            value = torch.stack(list(terms.values())).sum() / len(parts)
            # A loss may look at a lower block only: factors above it get no gradient.
            found = torch.autograd.grad(value, list(self.factors), allow_unused=True, materialize_grads=True)
            for place, gradient in enumerate(found):
                total[place] = total[place] + gradient
            for name, term in terms.items():
                values[name] = values.get(name, 0.0) + float(term.detach()) / len(parts)
        self.losses.update(values)
        return total

    @contextmanager
    def moved(self, direction: Gradient, length: float) -> Iterator[None]:
        """Inside, the factors are moved by ``length`` along a direction (of any norm but zero)."""
        norm = math.sqrt(sum(float(part.square().sum()) for part in direction))
        before = [factor.detach().clone() for factor in self.factors]
        try:
            with torch.no_grad():
                for factor, part in zip(self.factors, direction, strict=True):
                    factor.add_(part, alpha=length / norm if norm > 0 else 0.0)
            yield
        finally:
            with torch.no_grad():
                for factor, value in zip(self.factors, before, strict=True):
                    factor.copy_(value)

    def halve(self) -> bool:
        """Use half as many frames in a pass from now on; False when one frame is already all there is."""
        largest = max(len(rows) for rows in self.rows.values())
        smaller = (min(self.micro_batch, largest) if self.micro_batch else largest) // 2
        self.micro_batch = max(1, smaller)
        return smaller >= 1

    def _parts(self) -> list[Views]:
        lengths = [len(rows) for rows in self.rows.values()]
        count = -(-max(lengths) // self.micro_batch) if self.micro_batch else 1
        count = min(count, *lengths)
        split = {name: np.array_split(rows, count) for name, rows in self.rows.items()}
        return [
            {name: View(self.banks[name], parts[place]) for name, parts in split.items()}
            for place in range(count)
        ]
