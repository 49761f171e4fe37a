"""One optimiser step: its batches, and the gradient of any loss on them.

Where a batch does not fit into memory its forward and backward passes are run a few frames at a time. The loss is
still that of the whole batch, whatever it looks at: the outputs of all passes are put together, the gradient with
respect to them is taken, and each pass is then repeated to carry its share on (Gao et al. 2021, arXiv 2101.06983).
Adding up the losses of parts would be exact for plain means over frames only, and for parts of equal size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from vlaforget_ros.unlearning.bank import Bank
from vlaforget_ros.unlearning.passes import Gradient, PassedView, gradients_of
from vlaforget_ros.unlearning.views import Terms, View, Views


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
        """Gradient of the sum of a loss's terms, zeros where it has none.

        Args:
            loss: from views of the batches to weighted terms.
        """
        views = {name: self._view(name) for name in self.rows}
        terms = loss(views)
        self.losses.update({name: float(term.detach()) for name, term in terms.items()})
        if not terms:
            return [torch.zeros_like(factor) for factor in self.factors]
        value = torch.stack(list(terms.values())).sum()
        if not self.micro_batch:
            return gradients_of([value], self.factors)
        passed = [view for view in views.values() if isinstance(view, PassedView) and view.was_asked]
        return self._through(passed, value)

    def _view(self, name: str) -> View:
        if not self.micro_batch:
            return View(self.banks[name], self.rows[name])
        return PassedView(self.banks[name], self.rows[name], self.micro_batch)

    def _through(self, views: Sequence[PassedView], value: Tensor) -> Gradient:
        """Gradient of ``value`` by the chain rule: to the views' outputs first, then on to the factors pass by pass."""
        leaves = [leaf for view in views for leaf in view.leaves]
        above = iter(torch.autograd.grad(value, leaves, allow_unused=True))
        total = [torch.zeros_like(factor) for factor in self.factors]
        for view in views:
            for found in view.backward([next(above) for _ in view.leaves], self.factors):
                total = [a + b for a, b in zip(total, found, strict=True)]
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
