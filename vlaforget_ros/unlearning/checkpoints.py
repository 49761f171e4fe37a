"""Unfinished rounds on disk: factors and optimiser after so many steps, so that a kill costs only the steps since."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from vlaforget_ros.unlearning.journal import Journal

_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass
class Checkpoints:
    """Those of one round.

    Args:
        journal: where they are kept; only the last one is.
        name: of the round.
        factors: what is trained.
        state: what the method itself has to remember between steps, as numbers.
        set_state: gives it back.
        curve: the round's curve so far; filled on restoring.
    """

    journal: Journal
    name: str
    factors: Sequence[nn.Parameter]
    state: Callable[[], dict[str, float]]
    set_state: Callable[[dict[str, float]], None]
    curve: list[dict[str, Any]] = field(default_factory=list)

    def save(self, optimiser: torch.optim.Adam, step: int, micro_batch: int) -> None:
        """Store the round as it is after ``step`` steps."""
        tensors: dict[str, Tensor] = {}
        for place, factor in enumerate(self.factors):
            tensors[f"{place}.value"] = factor.detach()
            tensors.update({f"{place}.{name}": optimiser.state[factor][name] for name in _MOMENTS})
        record = {"step": step, "micro_batch": micro_batch, "state": self.state(), "curve": self.curve}
        self.journal.keep(self.name, record, tensors)

    def restore(self, optimiser: torch.optim.Adam, micro_batch: int) -> tuple[int, int]:
        """Go on from the last checkpoint.

        Args:
            optimiser: fresh.
            micro_batch: where there is no checkpoint.

        Returns:
            steps that were made, and frames of a set in one pass.
        """
        kept = self.journal.kept(self.name)
        if kept is None:
            return 0, micro_batch
        record, tensors = kept
        with torch.no_grad():
            for place, factor in enumerate(self.factors):
                factor.copy_(tensors[f"{place}.value"])
                moments = {name: tensors[f"{place}.{name}"].to(factor.device) for name in _MOMENTS}
                optimiser.state[factor] = {"step": torch.tensor(float(record["step"])), **moments}
        self.set_state(record["state"])
        self.curve.extend(record["curve"])
        return int(record["step"]), int(record["micro_batch"])
