"""Offline metrics of an edit: distances between actions on recorded frames (docs/unlearning.md, metrics)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from vlaforget_ros.episodes.dataset import FrameSet
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.unlearning.data import Earlier
from vlaforget_ros.unlearning.portions import most_frames, portions
from vlaforget_ros.unlearning.rates import Rate

# Recorded actions are usually the original policy's own, so that the 95th percentile of its distance is 0 and
# any change by one bin would count as forgotten. Below this distance (5 % of the range in every dimension, or
# 20 % in one of four) it is the same motion.
TAU_FLOOR = 0.05
CHUNK = 256


def action_distance(a: np.ndarray, b: np.ndarray, span: np.ndarray) -> np.ndarray:
    """d(a, a') = mean over dimensions of min(1, |a_j - a'_j| / (q99_j - q01_j)).

    Args:
        a: (..., A) actions in robot units.
        b: (..., A).
        span: (A,) q99 - q01.

    Returns:
        (...) in 0..1.
    """
    return np.minimum(1.0, np.abs(a - b) / span).mean(axis=-1)


def actions_of(
    policy: VlaPolicy, frames: FrameSet, between: Callable[[str], None] = lambda _: None
) -> np.ndarray:
    """The policy's own (greedy) actions on frames; a fault counts as the hold action it causes.

    Args:
        policy: the policy.
        frames: N of them.
        between: called before each pass with how many frames are done; may raise.

    Returns:
        (N, A).
    """

    def some(rows: np.ndarray) -> list[np.ndarray]:
        between(f"{rows[0]} of {len(frames)} frames")
        part = frames.take(rows)
        return [p.action for p in policy.act_batch(part.images, part.instructions, part.states)]

    most = most_frames(policy, "deciding", CHUNK)
    return np.stack([a for _, own in portions(np.arange(len(frames)), most, some) for a in own])


@dataclass(frozen=True)
class EarlierForgetting:
    """FC of an earlier request, in percent with 95 % bounds: what its edit took out and is still out."""

    fc: float
    fc_low: float
    fc_high: float
    forget_frames: int


@dataclass(frozen=True)
class OfflineMetrics:
    """What an edit changed: FC and FAD on D_f, all else on held-out episodes.

    Distances are in 0..1, FC and RC in percent with 95 % bounds.

    Args:
        fc: share of undesired frames on which the edited policy now does something else than was recorded.
        fad: mean distance to the original policy on D_f.
        rc: share of retained frames on which it still does what the original policy does.
        rad: mean distance to the original policy on D_r.
        rad_boundary: the same on D_b, None without a boundary set.
        tau: distance above which an action counts as another one (FC).
        repair: mean distance to the counterfactual actions on D_c, None without any.
        repair_before: the same of the original policy.
        earlier: by name of the request, where the edit was told of earlier ones.
    """

    fc: float
    fc_low: float
    fc_high: float
    forget_frames: int
    fad: float
    rc: float
    rc_low: float
    rc_high: float
    rad: float
    retain_frames: int
    rad_boundary: float | None
    tau: float
    repair: float | None
    repair_before: float | None
    earlier: Mapping[str, EarlierForgetting] = field(default_factory=dict)

    @classmethod
    def parse(cls, row: Mapping[str, Any]) -> OfflineMetrics:
        """From its fields as JSON."""
        earlier = {name: EarlierForgetting(**values) for name, values in row.get("earlier", {}).items()}
        return cls(**{**row, "earlier": earlier})

    def row(self) -> dict[str, float]:
        """Numbers by name, without what was not measured."""
        own = {name: v for name, v in asdict(self).items() if v is not None and name != "earlier"}
        return {**own, **self.earlier_row()}

    def earlier_row(self) -> dict[str, float]:
        """``fc_earlier_NAME`` of each earlier request."""
        return {f"fc_earlier_{name}": forgetting.fc for name, forgetting in self.earlier.items()}


class OfflineEvaluation:
    """Measures a policy against what the original one did on the same frames.

    Args:
        policy: while this object is built it must be the original policy.
        sets: held-out frames by set name.
        tau_retain: distance up to which a retained action counts as unchanged.
        earlier: what must stay forgotten.
        between: called between passes with what is measured; may raise (cancelled, out of memory).
    """

    def __init__(
        self,
        policy: VlaPolicy,
        sets: dict[str, FrameSet],
        tau_retain: float,
        earlier: Sequence[Earlier] = (),
        between: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._between = between
        self._policy, self._sets, self._tau_retain = policy, sets, tau_retain
        self._span = policy.codec.span
        self._original = {name: self._actions(policy, name, frames) for name, frames in sets.items()}
        forget = sets["forget"]
        own = action_distance(self._original["forget"], forget.actions, self._span)
        self.tau = max(TAU_FLOOR, float(np.percentile(own, 95)))
        self._undesired = _undesired(forget, self.tau, self._span)
        self._earlier = earlier

    def forgotten(self, policy: VlaPolicy | None = None) -> Rate:
        """FC alone, as a share of the undesired frames.

        Args:
            policy: another one with the same action codec; None is the evaluation's own, as it is now.
        """
        return self._fc(self._actions(policy or self._policy, "forget", self._sets["forget"]))

    def measure(self, policy: VlaPolicy | None = None) -> OfflineMetrics:
        """The metrics of the policy as it is now, or of another one with the same action codec."""
        measured = policy or self._policy
        actions = {name: self._actions(measured, name, frames) for name, frames in self._sets.items()}
        moved = {n: action_distance(a, self._original[n], self._span) for n, a in actions.items()}
        fc, rc = self._fc(actions["forget"]), Rate.of(moved["retain"] <= self._tau_retain)
        return OfflineMetrics(
            fc=100 * fc.value,
            fc_low=100 * fc.low,
            fc_high=100 * fc.high,
            forget_frames=fc.n,
            fad=float(moved["forget"].mean()),
            rc=100 * rc.value,
            rc_low=100 * rc.low,
            rc_high=100 * rc.high,
            rad=float(moved["retain"].mean()),
            retain_frames=rc.n,
            rad_boundary=float(moved["boundary"].mean()) if "boundary" in moved else None,
            tau=self.tau,
            repair=self._repair(actions),
            repair_before=self._repair(self._original),
            earlier={earlier.name: self._still_forgotten(earlier, measured) for earlier in self._earlier},
        )

    def _actions(self, policy: VlaPolicy, name: str, frames: FrameSet) -> np.ndarray:
        return actions_of(policy, frames, lambda done: self._between(f"measuring, {name}: {done}"))

    def _fc(self, actions: np.ndarray) -> Rate:
        return self._forgotten(actions, self._sets["forget"], self._undesired, self.tau)

    def _forgotten(self, actions: np.ndarray, recorded: FrameSet, rows: np.ndarray, tau: float) -> Rate:
        """Share of some frames on which the action is another one than was recorded."""
        return Rate.of(action_distance(actions, recorded.actions, self._span)[rows] > tau)

    def _still_forgotten(self, earlier: Earlier, policy: VlaPolicy) -> EarlierForgetting:
        rows = _undesired(earlier.frames, earlier.tau, self._span)
        actions = self._actions(policy, f"earlier {earlier.name}", earlier.frames)
        rate = self._forgotten(actions, earlier.frames, rows, earlier.tau)
        return EarlierForgetting(100 * rate.value, 100 * rate.low, 100 * rate.high, rate.n)

    def _repair(self, actions: dict[str, np.ndarray]) -> float | None:
        if "counterfactual" not in actions:
            return None
        wanted = self._sets["counterfactual"].actions
        return float(action_distance(actions["counterfactual"], wanted, self._span).mean())


def _undesired(forget: FrameSet, tau: float, span: np.ndarray) -> np.ndarray:
    """Rows of D_f whose recorded action is clearly not the desired one (2 tau apart, so that doing the desired one
    counts as forgotten however it is rounded); all of them where that is unknown."""
    everything = np.arange(len(forget))
    if forget.desired is None:
        return everything
    wrong = np.flatnonzero(action_distance(forget.desired, forget.actions, span) > 2.0 * tau)
    return wrong if len(wrong) else everything
