"""What a candidate that only computes would have done: how far from stable, and which rules it would break."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

Position = tuple[float, float, float]


@dataclass(frozen=True)
class ShadowResult:
    """One rollout.

    Args:
        mean_distance: of the candidate's actions from stable's, over ``steps``; 0: the same, 1: the whole span that
            stable's own actions have covered so far, on the average of their numbers. NaN without steps.
        would_be_violations: distinct rules that an action of the candidate would have broken.
        steps: in which both were heard.
    """

    mean_distance: float
    would_be_violations: int
    steps: int


@dataclass
class _Running:
    stable: dict[int, tuple[np.ndarray, Position | None]] = field(default_factory=dict)
    shadow: dict[int, np.ndarray] = field(default_factory=dict)
    distances: list[np.ndarray] = field(default_factory=list)
    rules: set[str] = field(default_factory=set)


class ShadowBook:
    """Pairs the actions of stable and candidate on the same images. Not thread-safe.

    Distances are measured in the span of stable's actions, number by number: which motion is large is different on
    each robot, and nobody knows better than the policy that drives it. A number that stable never changed counts as
    fully different where the candidate changes it.

    Args:
        foresee: ids of the rules that an end effector at (x, y, z) [m] would break.
        displacement: the first three numbers of an action are a displacement [m] of the end effector; otherwise
            nothing is foreseen.
    """

    def __init__(self, foresee: Callable[[Position], Sequence[str]], displacement: bool = True) -> None:
        self._foresee, self._displacement = foresee, displacement
        self._running: dict[str, _Running] = {}
        self._low: np.ndarray | None = None
        self._high: np.ndarray | None = None

    def stable(self, rollout_id: str, step: int, action: Sequence[float], position: Position | None) -> None:
        """Stable acted at a control tick, with the end effector at ``position`` [m] (None: not known)."""
        numbers = np.asarray(action, dtype=np.float64)
        if not numbers.size or not np.all(np.isfinite(numbers)):
            return
        if self._low is None or self._high is None or self._low.shape != numbers.shape:
            self._low, self._high = numbers.copy(), numbers.copy()
        self._low, self._high = np.minimum(self._low, numbers), np.maximum(self._high, numbers)
        running = self._running.setdefault(rollout_id, _Running())
        running.stable[step] = (numbers, position)
        self._pair(running, step)

    def shadow(self, rollout_id: str, step: int, action: Sequence[float], fault: int) -> None:
        """The candidate computed at the same tick. An answer with a fault is none."""
        if fault:
            return
        running = self._running.setdefault(rollout_id, _Running())
        running.shadow[step] = np.asarray(action, dtype=np.float64)
        self._pair(running, step)

    def ended(self, rollout_id: str) -> ShadowResult:
        """What the rollout showed; it is forgotten."""
        running = self._running.pop(rollout_id, _Running())
        steps = len(running.distances)
        if not steps or self._low is None or self._high is None:
            return ShadowResult(math.nan, len(running.rules), 0)
        span = self._high - self._low
        apart = np.stack(running.distances)
        with np.errstate(divide="ignore", invalid="ignore"):
            shares = np.where(span > 1e-9, apart / span, (apart > 1e-9).astype(np.float64))
        return ShadowResult(float(np.minimum(shares, 1.0).mean()), len(running.rules), steps)

    def _pair(self, running: _Running, step: int) -> None:
        if step not in running.stable or step not in running.shadow:
            return
        (stable, position), candidate = running.stable.pop(step), running.shadow.pop(step)
        if candidate.shape != stable.shape or not np.all(np.isfinite(candidate)):
            return
        running.distances.append(np.abs(candidate - stable))
        if not self._displacement or position is None or len(candidate) < 3:
            return
        x, y, z = (float(p + d) for p, d in zip(position, candidate[:3], strict=True))
        # A rule that is broken where the arm stands is stable's doing.
        running.rules.update(set(self._foresee((x, y, z))) - set(self._foresee(position)))
