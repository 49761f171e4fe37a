"""The inner loop: a fixed number of steps on the adapter of one stage or round."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from vlaforget_ros.errors import ErrorCode, UnlearningError
from vlaforget_ros.unlearning import pcgrad
from vlaforget_ros.unlearning.data import Sampler
from vlaforget_ros.unlearning.guard import Guard
from vlaforget_ros.unlearning.losses import Banks, Terms, forget_terms, retain_terms
from vlaforget_ros.unlearning.parameters import VlaForgetParameters

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


def train(
    banks: Banks,
    rows: Mapping[str, np.ndarray],
    factors: Sequence[nn.Parameter],
    parameters: VlaForgetParameters,
    steps: int,
    seed: tuple[int, ...],
    guard: Guard,
    progress: Callable[[StepLog], None],
) -> list[StepLog]:
    """Adam with warm-up and cosine decay on ``factors``.

    Args:
        banks: the sets; their entries are below the layers of ``factors``.
        rows: training rows of each set.
        factors: what is trained.
        parameters: the request's.
        steps: how many, unless time runs out.
        seed: of the batches.
        guard: may stop the loop.
        progress: called after each step.

    Raises:
        UnlearningError: 305 cancelled, 306 out of memory, 307 when a loss or gradient is not finite.
    """
    samplers = _samplers(rows, parameters, seed)
    optimiser = torch.optim.Adam(factors, lr=parameters.learning_rate)
    logs: list[StepLog] = []
    for step in range(steps):
        guard.check()
        if guard.out_of_time():
            break
        for group in optimiser.param_groups:
            group["lr"] = parameters.learning_rate * _schedule(step, steps)
        log = _step(step + 1, banks, samplers, factors, parameters)
        torch.nn.utils.clip_grad_norm_(factors, parameters.gradient_clip)
        optimiser.step()
        logs.append(log)
        progress(log)
    return logs


def _step(
    step: int,
    banks: Banks,
    samplers: Mapping[str, Sampler],
    factors: Sequence[nn.Parameter],
    parameters: VlaForgetParameters,
) -> StepLog:
    """Gradients of one step, left in ``factors``."""
    batch = {name: sampler.draw() for name, sampler in samplers.items()}
    forget_rows = batch.pop("forget")
    retain = retain_terms(banks, batch, parameters)
    retain_gradient = _gradient(retain, factors)
    # With both weights at 0 (plain corrected fine-tuning) the forget pass is not run at all.
    forget: Terms = {}
    if parameters.lambda_f > 0 or parameters.lambda_m > 0:
        forget = forget_terms(banks["forget"], forget_rows, parameters)
    surgery = pcgrad.combine(_gradient(forget, factors), retain_gradient, parameters.pcgrad)
    losses = {name: float(value.detach()) for name, value in {**forget, **retain}.items()}
    _check_finite(step, losses, surgery.gradients)
    for factor, gradient in zip(factors, surgery.gradients, strict=True):
        factor.grad = gradient
    return StepLog(step, losses, surgery.cosine, surgery.projected)


def _gradient(terms: Terms, factors: Sequence[nn.Parameter]) -> list[Tensor]:
    if not terms:
        return [torch.zeros_like(factor) for factor in factors]
    return list(torch.autograd.grad(torch.stack(list(terms.values())).sum(), factors))


def _samplers(
    rows: Mapping[str, np.ndarray], parameters: VlaForgetParameters, seed: tuple[int, ...]
) -> dict[str, Sampler]:
    return {
        name: Sampler(chosen, getattr(parameters, f"batch_{name}"), (*seed, place))
        for place, (name, chosen) in enumerate(sorted(rows.items()))
    }


def _schedule(step: int, steps: int) -> float:
    warm = min(1.0, (step + 1) / WARMUP_STEPS)
    return warm * (0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * step / steps)))


def _check_finite(step: int, losses: Mapping[str, float], gradients: Sequence[Tensor]) -> None:
    bad = [name for name, value in losses.items() if not math.isfinite(value)]
    if not bad and all(bool(torch.isfinite(gradient).all()) for gradient in gradients):
        return
    raise UnlearningError(
        ErrorCode.UNLEARNING_DIVERGED,
        f"the edit diverged at step {step}",
        value=", ".join(bad) or "gradient",
        limit="finite losses and gradients",
        remedy="lower learning_rate, or use the bounded forget_form npo; finished stages are kept",
    )
