"""A method with its factors attached, as a round has it before the first step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from vlaforget_ros.unlearning.methods.base import JointMethod
from vlaforget_ros.unlearning.steps import Step
from vlaforget_ros.unlearning.workbench import Workbench


@dataclass
class Opened:
    """A method that was started.

    Args:
        method: the method.
        bench: the policy under edit; passes enter below ``modules``.
        modules: what carries factors.
        factors: what is trained.
        masks: the method's.
    """

    method: JointMethod[Any]
    bench: Workbench
    modules: list[str]
    factors: list[nn.Parameter]
    masks: Sequence[Tensor] | None

    def step(self, number: int = 1, total: int = 4, micro_batch: int = 0) -> Step:
        """A step on every training row."""
        return Step(number, total, self.bench.banks, dict(self.bench.rows.train), self.factors, micro_batch)


Open = Callable[..., Opened]
