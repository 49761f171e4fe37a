"""The command gate: what may pass of an action when the monitor stands between policy and arm. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from vlaforget_ros.errors import ErrorCode
from vlaforget_ros.safety.monitor import ArmState

Kind = Literal["displacement", "position"]


@dataclass(frozen=True)
class Checked:
    """What passes.

    Args:
        action: (A,) in the robot's units; empty: the driver holds by itself.
        fault: 0, or why it is a hold action.
        speed_scale: factor on its motion that was applied by policy and gate together, 0..1.
    """

    action: tuple[float, ...]
    fault: int
    speed_scale: float


class CommandGate:
    """Passes, scales or holds actions. Not thread-safe.

    Actions that are displacements are scaled down to what the monitor allows, and held as zeros. Actions that are
    positions cannot be scaled without knowing where the arm stands: they pass where the policy has applied the scale
    itself, otherwise they are held as the empty action.

    Args:
        kind: ``displacement`` or ``position``: what the policy's actions are.
        gripper: the last number is a gripper's position: it is neither scaled nor zeroed.
    """

    def __init__(self, kind: Kind = "displacement", gripper: bool = True) -> None:
        self._kind, self._gripper = kind, gripper
        self._last_gripper: float | None = None

    def check(
        self, action: Sequence[float], fault: int, applied: float, state: ArmState, allowed: float
    ) -> Checked:
        """One action on its way to the arm.

        Args:
            action: (A,) as published by the policy.
            fault: its fault; not 0: it is a hold action already, and passes.
            applied: factor that the policy has applied, 0..1.
            state: what the arm may do now.
            allowed: speed scale of the monitor now, 0..1.
        """
        if not all(math.isfinite(value) for value in (*action, applied)):
            return self._held(action, ErrorCode.POLICY_NON_FINITE_ACTION)
        if fault:
            return Checked(tuple(action), fault, applied)
        if state is ArmState.STOPPED:
            return self._held(action, ErrorCode.SAFETY_STOPPED)
        if self._gripper and action:
            self._last_gripper = float(action[-1])
        if applied <= allowed + 1e-6:
            return Checked(tuple(action), 0, applied)
        if self._kind == "position":
            return self._held(action, ErrorCode.SAFETY_STOPPED)
        factor = allowed / applied
        motion = action[:-1] if self._gripper else action
        kept = tuple(action[len(motion) :])
        return Checked((*(value * factor for value in motion), *kept), 0, allowed)

    def _held(self, action: Sequence[float], why: ErrorCode) -> Checked:
        if self._kind == "position" or not action:
            return Checked((), int(why), 0.0)
        held = [0.0] * len(action)
        if self._gripper:
            # What the hand holds is not let go of: the newest position that may be believed.
            asked = float(action[-1])
            last = self._last_gripper
            held[-1] = last if last is not None else asked if math.isfinite(asked) else 0.0
        return Checked(tuple(held), int(why), 0.0)
