"""Which adapter drives the next rollout, by the newest canary status, without ROS."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from vlaforget_ros.safety.canary.assignment import arm_of


@dataclass(frozen=True)
class CanaryView:
    """The newest canary/status as far as routing is concerned.

    Args:
        canary_id: names the run; "" = none.
        candidate: digest of the adapter under test.
        seed: of the assignment.
        weight: share of the rollouts that the candidate drives, 0..1.
        shadow: the candidate computes beside the adapter that drives.
        running: there is no verdict yet.
    """

    canary_id: str = ""
    candidate: str = ""
    seed: int = 0
    weight: float = 0.0
    shadow: bool = False
    running: bool = False


@dataclass(frozen=True)
class Route:
    """What the next rollout is for.

    Args:
        candidate: adapter that drives in place of the active one; None: the active one drives.
        shadow: adapter that computes beside; None: none.
    """

    candidate: str | None = None
    shadow: str | None = None


class Router:
    """Assigns rollouts to the arms of a canary. Any thread may call it.

    Without a canary, or with a status older than ``stale_after_s``, all rollouts are the active adapter's: a monitor
    that died must not leave its candidate driving.

    Args:
        stale_after_s: age of the newest status beyond which it counts for nothing [s].
        clock: steady clock [s].
    """

    def __init__(self, stale_after_s: float, clock: Callable[[], float]) -> None:
        self._stale_after_s, self._clock = stale_after_s, clock
        self._lock = threading.Lock()
        self._view, self._heard_s = CanaryView(), -float("inf")
        self._index = 0

    def heard(self, view: CanaryView) -> None:
        """A canary status arrived."""
        with self._lock:
            if view.canary_id != self._view.canary_id:
                self._index = 0
            self._view, self._heard_s = view, self._clock()

    def next(self) -> Route:
        """The route of a rollout that begins now; one with a share of the candidate's takes the next place."""
        with self._lock:
            view = self._view
            if not view.running or self._clock() - self._heard_s > self._stale_after_s:
                return Route()
            if view.shadow:
                return Route(shadow=view.candidate)
            if view.weight <= 0.0:
                return Route()
            index, self._index = self._index, self._index + 1
            return Route(candidate=view.candidate if arm_of(view.seed, index, view.weight) else None)

    def shadowing(self) -> bool:
        """Whether the candidate shall still compute beside."""
        with self._lock:
            fresh = self._clock() - self._heard_s <= self._stale_after_s
            return self._view.running and self._view.shadow and fresh
