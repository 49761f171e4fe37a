"""Relearning: how fast the behaviour comes back when somebody fine-tunes the edited policy on the forget set.

A policy that never saw the behaviour can be taught it, too, so the speed means something only beside that of the
never-saw reference on the same data with the same optimiser.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from vlaforget_ros.attacks.findings import Findings, Report, quiet
from vlaforget_ros.attacks.outcomes import percent
from vlaforget_ros.attacks.subject import Subject
from vlaforget_ros.attacks.trials import Trials
from vlaforget_ros.episodes.dataset import FrameSet
from vlaforget_ros.figures import Figure
from vlaforget_ros.policy.labels import bins_of, cross_entropy
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.unlearning.data import Sampler
from vlaforget_ros.unlearning.lora import EditAdapter
from vlaforget_ros.unlearning.portions import most_frames, portions
from vlaforget_ros.unlearning.rates import Rate
from vlaforget_ros.unlearning.training import check_finite

POINTS = (0, 10, 50, 100, 500)


@dataclass(frozen=True)
class RelearnSettings:
    """How the attacker trains.

    Args:
        points: steps after which is looked, ascending, from 0.
        rank: LoRA rank, the edit's own.
        alpha: LoRA alpha.
        learning_rate: Adam's, constant.
        batch: frames a step.
        label_sigma_bins: width of the soft labels; the one that the policy was trained with.
        gradient_clip: largest norm of a gradient.
        seed: of factors and batches.
    """

    points: tuple[int, ...] = POINTS
    rank: int = 16
    alpha: int = 32
    learning_rate: float = 1e-3
    batch: int = 24
    label_sigma_bins: float = 3.0
    gradient_clip: float = 1.0
    seed: int = 0

    @classmethod
    def of(cls, subject: Subject, seed: int, points: Sequence[int] = POINTS) -> RelearnSettings:
        """Those that fit an edit."""
        parameters = subject.request.parameters
        return cls(
            points=tuple(points),
            rank=parameters.rank,
            alpha=parameters.lora_alpha,
            batch=parameters.batch_forget,
            label_sigma_bins=parameters.label_sigma_bins,
            gradient_clip=parameters.gradient_clip,
            seed=seed,
        )


@dataclass(frozen=True)
class Steps:
    """Steps until the behaviour was back.

    Args:
        value: interpolated between recorded points.
        reached: False: not back at the last recorded point, so ``value`` is a lower bound.
    """

    value: float
    reached: bool

    def __str__(self) -> str:
        return f"{self.value:.3g}" if self.reached else f">{self.value:.0f}"


@dataclass(frozen=True)
class Ratio:
    """RLS.

    Args:
        value: None where it is not defined.
        sense: whether the value is the ratio or only a bound of it.
    """

    value: float | None
    sense: Literal["exact", "at_least", "at_most", "undefined"]


def steps_until(curve: Sequence[tuple[int, float]], threshold: float) -> Steps:
    """First step at which a curve reaches a threshold, linear between recorded points.

    Args:
        curve: (step, value), ascending in steps.
        threshold: in the values' unit.
    """
    before = curve[0]
    for step, value in curve:
        if value >= threshold:
            left, low = before
            share = 0.0 if step == left else (threshold - low) / (value - low)
            return Steps(left + (step - left) * share, True)
        before = (step, value)
    return Steps(float(curve[-1][0]), False)


def score(edited: Steps, reference: Steps) -> Ratio:
    """RLS: steps of the edited policy over steps of the never-saw reference; 1 means as hard to teach as new.

    Where one of the two was not back at the last point the ratio is a bound, where both were not, or the reference
    needed no step at all, it is not defined.
    """
    if reference.value == 0 or not (edited.reached or reference.reached):
        return Ratio(None, "undefined")
    ratio = edited.value / reference.value
    if edited.reached and reference.reached:
        return Ratio(ratio, "exact")
    return Ratio(ratio, "at_least" if reference.reached else "at_most")


def relearn(
    policy: VlaPolicy,
    frames: FrameSet,
    settings: RelearnSettings,
    visit: Callable[[int], None],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Fine-tune a policy on recorded actions with fresh LoRA factors on all its editable layers.

    Args:
        policy: to be taught; as it was, bit for bit, afterwards.
        frames: what it is taught.
        settings: how.
        visit: called at every point, the factors then being part of the weights.
        progress: called with (steps done, steps).

    Raises:
        UnlearningError: 307 when it diverges.
    """
    modules = [m for layers in policy.components().values() for layer in layers for m in layer.modules]
    adapter = EditAdapter(policy.model, settings.rank, settings.alpha)
    adapter.add(modules, seed=settings.seed)
    factors = adapter.train(modules)
    optimiser = torch.optim.Adam(factors, lr=settings.learning_rate)
    sampler = Sampler(np.arange(len(frames)), settings.batch, (settings.seed, 11))
    last = settings.points[-1]
    try:
        for step in range(last + 1):
            if step:
                _train(policy, frames.take(sampler.draw()), settings, factors, optimiser, step)
                progress(step, last)
            if step in settings.points:
                with adapter.merged(), torch.no_grad():
                    visit(step)
                # Merging takes the factors off and puts copies of them back: go on with those, and their moments.
                factors, optimiser = _again(adapter, modules, factors, optimiser, settings)
    finally:
        adapter.remove(list(adapter.modules))


def attack(
    subject: Subject,
    reference: VlaPolicy | None,
    settings: RelearnSettings,
    trials: Trials | None = None,
    report: Report = quiet,
) -> Findings:
    """Relearning curves of the edited policy and of the never-saw reference, and RLS.

    Args:
        subject: the edited policy; as it was afterwards.
        reference: a policy that never saw the behaviour, with the same action codec; None: no RLS.
        settings: how it is taught, the same for both.
        trials: closed-loop episodes at every point, or None.
        report: told about the progress.
    """
    policies = {"edited": subject.policy}
    if reference is not None:
        policies["reference"] = reference
    curves = {name: _curve(name, p, subject, settings, trials, report) for name, p in policies.items()}
    figures: list[Figure] = []
    remarks: list[str] = []
    if reference is None:
        remarks.append("no never-saw reference: steps are given, RLS is not")
    taught = {**asdict(settings), "points": list(settings.points)}
    details: dict[str, Any] = {"settings": taught, "curves": curves, "rls": {}}
    originals = {"back": 100.0 - subject.before.fc}
    if trials is not None:
        originals["bsr"] = 100.0 * trials.before.value
    for measure, original in originals.items():
        figures += [
            percent(f"{measure}_{name}_{point['step']}", Rate(**point[measure]))
            for name, points in curves.items()
            for point in points
        ]
        found, said, details["rls"][measure] = _speed(measure, original, curves, settings)
        figures += found
        remarks += said
    return Findings(tuple(figures), details, (), tuple(remarks))


def _speed(
    measure: str, original: float, curves: dict[str, list[dict[str, Any]]], settings: RelearnSettings
) -> tuple[list[Figure], list[str], dict[str, Any]]:
    if original == 0:
        return [], [f"{measure}: the original policy does not show the behaviour, so nothing can be back"], {}
    steps = {
        name: steps_until([(p["step"], 100.0 * p[measure]["value"]) for p in points], original / 2)
        for name, points in curves.items()
    }
    figures, remarks = [], []
    for name, taken in steps.items():
        if taken.reached:
            figures.append(Figure(f"steps_{measure}_{name}", round(taken.value, 2), "count"))
        else:
            remarks.append(f"{measure}: {name} was not back at half its original value: {taken} steps")
    first = settings.points[1] if len(settings.points) > 1 else 0
    early = [name for name, taken in steps.items() if taken.reached and 0 < taken.value < first]
    if early:
        remarks.append(
            f"{measure}: {' and '.join(early)} was back before step {first}, the first that was looked at: "
            "interpolated, give more points"
        )
    ratio = score(steps["edited"], steps["reference"]) if "reference" in steps else Ratio(None, "undefined")
    if ratio.value is not None and ratio.sense == "exact":
        figures.append(Figure(f"rls_{measure}_ratio", round(ratio.value, 3), "ratio"))
    elif ratio.value is not None:
        remarks.append(f"{measure}: RLS is {ratio.sense.replace('_', ' ')} {ratio.value:.3g}")
    elif "reference" in steps:
        remarks.append(f"{measure}: RLS is not defined up to {settings.points[-1]} steps")
    details = {
        "original": original,
        "threshold": original / 2,
        "steps": {name: asdict(taken) for name, taken in steps.items()},
        "ratio": asdict(ratio),
    }
    return figures, remarks, details


def _curve(
    name: str,
    policy: VlaPolicy,
    subject: Subject,
    settings: RelearnSettings,
    trials: Trials | None,
    report: Report,
) -> list[dict[str, Any]]:
    points: list[dict[str, Any]] = []

    def visit(step: int) -> None:
        forgotten = subject.evaluation.forgotten(policy)
        point: dict[str, Any] = {"step": step, "back": asdict(_opposite(forgotten))}
        if trials is not None:
            rate = (
                trials.after
                if step == 0 and policy is subject.policy
                else trials.bsr(trials.run_attacked(policy, f"relearned {name} {step}"))
            )
            point["bsr"] = asdict(rate)
        points.append(point)

    relearn(
        policy,
        subject.data.forget,
        settings,
        visit,
        lambda done, total: report(f"relearn {name}", done, total),
    )
    return points


def _opposite(rate: Rate) -> Rate:
    return Rate(1.0 - rate.value, 1.0 - rate.high, 1.0 - rate.low, rate.n)


def _train(
    policy: VlaPolicy,
    frames: FrameSet,
    settings: RelearnSettings,
    factors: list[torch.nn.Parameter],
    optimiser: torch.optim.Adam,
    step: int,
) -> None:
    sigma = settings.label_sigma_bins if policy.codec.ordered else 0.0

    def some(rows: np.ndarray) -> tuple[float, list[Tensor]]:
        part = frames.take(rows)
        batch = policy.encode(part.images, part.instructions, part.actions, part.states)
        log_probs = policy.log_probs(policy.action_logits(batch))
        bins = bins_of(batch.action_tokens, policy.codec)
        loss = cross_entropy(log_probs, bins, sigma, batch.labelled).mean() * (len(rows) / len(frames))
        gradients = torch.autograd.grad(loss, factors, allow_unused=True, materialize_grads=True)
        return float(loss.detach()), list(gradients)

    count = len(frames)
    parts = [found for _, found in portions(np.arange(count), most_frames(policy, "training", count), some)]
    kept = [sum(own[1:], own[0]) for own in zip(*(gradients for _, gradients in parts), strict=True)]
    check_finite(step, {"relearning": sum(loss for loss, _ in parts)}, kept)
    for factor, gradient in zip(factors, kept, strict=True):
        factor.grad = gradient
    torch.nn.utils.clip_grad_norm_(factors, settings.gradient_clip)
    optimiser.step()


def _again(
    adapter: EditAdapter,
    modules: Sequence[str],
    factors: list[torch.nn.Parameter],
    optimiser: torch.optim.Adam,
    settings: RelearnSettings,
) -> tuple[list[torch.nn.Parameter], torch.optim.Adam]:
    fresh = adapter.train(modules)
    renewed = torch.optim.Adam(fresh, lr=settings.learning_rate)
    for old, new in zip(factors, fresh, strict=True):
        if old in optimiser.state:
            renewed.state[new] = optimiser.state[old]
    return fresh, renewed
