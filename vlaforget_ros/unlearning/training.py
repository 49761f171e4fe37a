"""The inner loop: a fixed number of steps on the factors of one round, whatever the method."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from vlaforget_ros.errors import ErrorCode, UnlearningError
from vlaforget_ros.finite import all_finite
from vlaforget_ros.policy.memory import free_cached_memory, is_out_of_memory
from vlaforget_ros.unlearning.bank import Bank
from vlaforget_ros.unlearning.checkpoints import Checkpoints
from vlaforget_ros.unlearning.data import Sampler
from vlaforget_ros.unlearning.guard import Guard
from vlaforget_ros.unlearning.parameters import MethodParameters
from vlaforget_ros.unlearning.pcgrad import Surgery
from vlaforget_ros.unlearning.steps import Step

WARMUP_STEPS = 10


@dataclass(frozen=True)
class StepLog:
    """One optimiser step.

    Args:
        step: from 1.
        losses: weighted terms.
        cosine: between the gradients of the forget and the retain group.
        projected: whether PCGrad acted.
    """

    step: int
    losses: dict[str, float]
    cosine: float
    projected: bool


@dataclass(frozen=True)
class Loop:
    """What a round trains, and on what.

    Args:
        banks: the sets; their entries are below the layers of ``factors``.
        rows: training rows of each set.
        factors: what is trained.
        masks: 1 where an element of a factor may change, one tensor for each; None: everywhere.
        gradients: the method's: gradients of one step.
        parameters: the request's.
        steps: how many, unless time runs out.
        seed: of the batches.
        guard: may stop the loop.
        checkpoints: of this round.
        micro_batch: most frames of a set in one pass; 0: whole batches.
    """

    banks: Mapping[str, Bank]
    rows: Mapping[str, np.ndarray]
    factors: Sequence[nn.Parameter]
    masks: Sequence[Tensor] | None
    gradients: Callable[[Step], Surgery]
    parameters: MethodParameters
    steps: int
    seed: tuple[int, ...]
    guard: Guard
    checkpoints: Checkpoints
    micro_batch: int = 0

    def run(self, progress: Callable[[StepLog], None]) -> int:
        """Adam with warm-up and cosine decay.

        Args:
            progress: called after each step that this process makes.

        Returns:
            frames of a set in one pass at the end; 0: whole batches.

        Raises:
            UnlearningError: 305 cancelled, 306 out of memory even frame by frame, 307 when a loss or gradient is
                not finite.
        """
        optimiser = torch.optim.Adam(self.factors, lr=self.parameters.learning_rate)
        done, micro_batch = self.checkpoints.restore(optimiser, self.micro_batch)
        samplers = {
            name: Sampler(chosen, getattr(self.parameters, f"batch_{name}"), (*self.seed, place))
            for place, (name, chosen) in enumerate(sorted(self.rows.items()))
        }
        for number in range(1, self.steps + 1):
            batch = {name: sampler.draw() for name, sampler in samplers.items()}
            if number <= done:
                continue
            self.guard.check()
            if self.guard.out_of_time():
                break
            step = Step(number, self.steps, self.banks, batch, self.factors, micro_batch)
            surgery = self._gradients(step)
            micro_batch = step.micro_batch
            check_finite(number, step.losses, surgery.gradients)
            self._update(optimiser, surgery.gradients, number)
            progress(StepLog(number, step.losses, surgery.cosine, surgery.projected))
            if number % self.parameters.checkpoint_steps == 0 and number < self.steps:
                self.guard.require_weights()
                self.checkpoints.save(optimiser, number, micro_batch)
        return micro_batch

    def _gradients(self, step: Step) -> Surgery:
        """The method's gradients, in smaller passes where memory does not suffice."""
        while True:
            try:
                return self.gradients(step)
            except Exception as error:
                if not is_out_of_memory(error) or not step.halve():
                    raise
            # Only out here is the error gone, and with it the tensors that its traceback holds.
            step.losses.clear()
            free_cached_memory()

    def _update(self, optimiser: torch.optim.Adam, gradients: Sequence[Tensor], number: int) -> None:
        for group in optimiser.param_groups:
            group["lr"] = self.parameters.learning_rate * _schedule(number - 1, self.steps)
        for place, (factor, gradient) in enumerate(zip(self.factors, gradients, strict=True)):
            factor.grad = gradient if self.masks is None else gradient * self.masks[place]
        torch.nn.utils.clip_grad_norm_(self.factors, self.parameters.gradient_clip)
        before = None if self.masks is None else [factor.detach().clone() for factor in self.factors]
        optimiser.step()
        if self.masks is None or before is None:
            return
        # A masked gradient is not enough: momentum and weight decay of an optimiser move what has none.
        with torch.no_grad():
            for factor, old, mask in zip(self.factors, before, self.masks, strict=True):
                factor.copy_(torch.where(mask > 0, factor, old))


def check_finite(step: int, losses: Mapping[str, float], gradients: Sequence[Tensor]) -> None:
    """Raises UnlearningError 307 naming what is not finite."""
    bad = [name for name, value in losses.items() if not math.isfinite(value)]
    if not bad and all_finite(*gradients):
        return
    raise UnlearningError(
        ErrorCode.UNLEARNING_DIVERGED,
        f"the edit diverged at step {step}",
        value=", ".join(bad) or "gradient",
        limit="finite losses and gradients",
        remedy="lower learning_rate, or use a bounded loss (npo, or vla_forget with forget_form npo); "
        "finished stages are kept",
    )


def _schedule(step: int, steps: int) -> float:
    warm = min(1.0, (step + 1) / WARMUP_STEPS)
    return warm * (0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * step / steps)))
