"""One rollout as the policy node runs it, without ROS: when to hold, when it is over, and with which code."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from vlaforget_ros.errors import ErrorCode

# Faults that say nothing about the policy. Its own, such as tokens that are no action, are its failures.
_HELD_BY_OTHERS = (ErrorCode.SAFETY_STOPPED, ErrorCode.SAFETY_STALE_INPUT, ErrorCode.POLICY_STALE_IMAGE)


class Phase(IntEnum):
    """The numbers of Rollout.phase and ExecuteInstruction's outcome."""

    STARTED = 0
    SUCCEEDED = 1
    FAILED = 2
    ABORTED = 3


@dataclass(frozen=True)
class SafetyView:
    """The newest safety/status as far as motion is concerned.

    Args:
        stopped: hold until released.
        speed_scale: factor on motion, 0..1.
        reason: why, "" when nominal.
        silent: a monitor that was there says nothing any more: hold until it does.
    """

    stopped: bool = False
    speed_scale: float = 1.0
    reason: str = ""
    silent: bool = False


class SafetyWatch:
    """What the safety monitor says, and whether it still says anything. Any thread may call it.

    Before a monitor was heard for the first time nothing is held: a policy may be run without one.

    Args:
        silent_after_s: age of the newest status beyond which the arm holds [s]; 0: any age will do.
        clock: steady clock [s].
    """

    def __init__(self, silent_after_s: float, clock: Callable[[], float]) -> None:
        self._silent_after_s, self._clock = silent_after_s, clock
        self._newest: tuple[float, SafetyView] | None = None

    def heard(self, view: SafetyView) -> bool:
        """A status arrived; returns whether the arm may now do what it might not before, or the other way round."""
        before = self.view()
        self._newest = (self._clock(), view)
        return before.stopped != view.stopped

    def view(self) -> SafetyView:
        """What holds now."""
        if self._newest is None:
            return SafetyView()
        heard_s, view = self._newest
        age_s = self._clock() - heard_s
        if view.stopped or not self._silent_after_s or age_s <= self._silent_after_s:
            return view
        reason = f"the safety monitor has said nothing for {age_s:.1f} s (limit {self._silent_after_s:g} s)"
        return SafetyView(False, 0.0, reason, silent=True)


@dataclass(frozen=True)
class Ending:
    """How a rollout ended.

    Args:
        phase: SUCCEEDED, FAILED or ABORTED.
        code: 0, or why it was aborted.
        message: one line for a person.
    """

    phase: Phase
    code: int = 0
    message: str = ""


def gate(age_s: float, stale_after_s: float, safety: SafetyView) -> int:
    """Fault that forbids an inference on an image of this age [s]; 0 when the policy may act."""
    if safety.stopped:
        return int(ErrorCode.SAFETY_STOPPED)
    if safety.silent:
        return int(ErrorCode.SAFETY_STALE_INPUT)
    if age_s > stale_after_s:
        return int(ErrorCode.POLICY_STALE_IMAGE)
    return 0


def safe_action(
    action: np.ndarray, fault: int, hold: np.ndarray, speed_scale: float, gripper: Sequence[bool]
) -> tuple[np.ndarray, int]:
    """What may be published of a prediction.

    Args:
        action: (A,) as predicted, robot units.
        fault: the prediction's fault.
        hold: (A,) the hold action; empty where none is known, which only a faulted answer can be.
        speed_scale: factor on motion, 0..1.
        gripper: A flags, which dimensions are grippers (positions, hence not scaled).

    Returns:
        The action and its fault: the hold action whenever the fault is not 0.
    """
    if fault:
        return hold.copy(), fault
    if not np.all(np.isfinite(action)):
        return hold.copy(), int(ErrorCode.POLICY_NON_FINITE_ACTION)
    if speed_scale >= 1.0:
        return action, 0
    # From where the arm stands: for motions that is zero, for positions it is not.
    slowed = hold + (action - hold) * speed_scale
    return np.where(np.asarray(gripper), action, slowed).astype(np.float32), 0


class RolloutControl:
    """State of the running rollout; every method may be called from any thread.

    Args:
        rollout_id: its id.
        instruction: what the arm was told.
        max_steps: control ticks after which it has failed.
        digest: adapter at the start.
        started_s: when, on the steady clock [s].
    """

    def __init__(
        self, rollout_id: str, instruction: str, max_steps: int, digest: str, started_s: float
    ) -> None:
        self.rollout_id = rollout_id
        self.instruction = instruction
        self.max_steps = max_steps
        self.digest = digest
        self.started_s = started_s
        self.image_s = started_s
        self.steps = 0
        self._last_fault = 0
        self._reason = ""
        self._rules: set[str] = set()
        self._ending: Ending | None = None
        self._over = threading.Event()
        self._lock = threading.Lock()

    @property
    def ending(self) -> Ending | None:
        """How it ended, None while it runs."""
        return self._ending

    @property
    def violations(self) -> int:
        """Distinct rules broken so far."""
        return len(self._rules)

    def ticked(self, digest: str, fault: int, reason: str, now_s: float) -> None:
        """One action was published at ``now_s`` [s]."""
        with self._lock:
            self.steps += 1
            self.digest = digest
            self.image_s = now_s
            self._last_fault = fault
            self._reason = reason

    @property
    def exhausted(self) -> bool:
        """All steps were taken; only the outcome of the last one may still come."""
        return self.steps >= self.max_steps

    def violated(self, rollout_id: str, rule: str) -> None:
        """Somebody saw a rule broken."""
        if rollout_id == self.rollout_id:
            self._rules.add(rule)

    def finish(self, success: bool, message: str = "") -> None:
        """The outcome is known. A rollout that ends while others hold it counts for no rate."""
        if not success and self._last_fault in _HELD_BY_OTHERS:
            self.abort(self._last_fault, self._reason or f"it ended holding with fault {self._last_fault}")
            return
        self._end(Ending(Phase.SUCCEEDED if success else Phase.FAILED, 0, message))

    def abort(self, code: int, message: str) -> None:
        """End it without an outcome."""
        self._end(Ending(Phase.ABORTED, int(code), message))

    def wait(self, timeout_s: float) -> bool:
        """Wait for the end; returns whether it came within ``timeout_s`` [s]."""
        return self._over.wait(timeout_s)

    def _end(self, ending: Ending) -> None:
        with self._lock:
            self._ending = self._ending or ending
        self._over.set()


class TickMeter:
    """Control ticks as measured: missed ticks, the newest fault, the achieved rate.

    Args:
        tick_s: an action later than this after its image is a missed tick [s].
    """

    def __init__(self, tick_s: float) -> None:
        self._tick_s = tick_s
        self.missed = 0
        self.last_fault = 0
        self.rate_hz = 0.0

    def tick(self, latency_s: float, fault: int) -> None:
        """One action, ``latency_s`` [s] after its image arrived."""
        self.missed += int(latency_s > self._tick_s)
        self.last_fault = fault or self.last_fault

    def rollout(self, steps: int, duration_s: float) -> None:
        """A rollout is over."""
        self.rate_hz = steps / duration_s if duration_s > 0 else 0.0
