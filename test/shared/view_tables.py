"""Views whose probabilities are tables: what a loss should be can be worked out on paper."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlaforget_ros.unlearning import objective
from vlaforget_ros.unlearning.network import Output
from vlaforget_ros.unlearning.views import View

Table = Sequence[Sequence[Sequence[float]]]


class TableBank:
    """Stands in for a bank: frame, token, bin -> probability.

    Args:
        probabilities: (N, A, B) of the policy under edit; each row sums to 1.
        bins: (N, A) recorded bins.
        mask: (N, A) 1 where undesired; all, when not given.
        reference: (N, A, B) of the original policy; the same, when not given.
        window: bins either side that are the same motion.
        hidden: language block -> (N, A, D).
        desired: actions; None where they are not known.
        name: of the set.
    """

    def __init__(
        self,
        probabilities: Table,
        bins: Sequence[Sequence[int]],
        mask: Sequence[Sequence[float]] | None = None,
        reference: Table | None = None,
        window: int = 0,
        hidden: dict[int, Tensor] | None = None,
        desired: np.ndarray | None = None,
        name: str = "forget",
    ) -> None:
        self.name, self.window, self.bins = name, window, torch.tensor(bins)
        self.mask = torch.ones(self.bins.shape) if mask is None else torch.tensor(mask)
        self.labelled = torch.ones(self.bins.shape)
        self.logits = torch.tensor(probabilities).log().requires_grad_(True)
        original = self.logits.detach() if reference is None else torch.tensor(reference).log()
        self.reference = original
        self.motion_reference = objective.motion_log_prob(original, self.bins, window)
        self.hidden = hidden or {}
        self.frames = SimpleNamespace(desired=desired)

    def forward(self, rows: np.ndarray) -> Output:
        index = torch.from_numpy(rows)
        hidden = {block: states[index] for block, states in self.hidden.items()}
        return Output(None, None, self.logits[index], hidden)

    def log_probs(self, output: Output) -> Tensor:
        return output.logits.log_softmax(-1)


def view(bank: TableBank) -> View:
    """All frames of a table."""
    as_bank: Any = bank
    return View(as_bank, np.arange(len(bank.bins)))


def table_view(*arguments: Any, **keywords: Any) -> View:
    """All frames of a table made of these."""
    return view(TableBank(*arguments, **keywords))


def slope(term: Tensor, of: View) -> Tensor:
    """(N, A, B) gradient of a term with respect to a table's logits."""
    (gradient,) = torch.autograd.grad(term, of.bank.logits)  # type: ignore[attr-defined]
    return gradient
