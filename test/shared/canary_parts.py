"""A canary whose clock a test turns."""

from vlaforget_ros.safety.canary.machine import Canary
from vlaforget_ros.safety.canary.protocol import Protocol
from vlaforget_ros.safety.canary.state import Arm, ArmCounts, Phase, RolloutRecord
from vlaforget_ros.safety.rules.base import Severity

CANDIDATE, STABLE = "c" * 64, "5" * 64


class Bench:
    """A canary, its clock, and short words for what it hears."""

    def __init__(self, protocol: Protocol, history: ArmCounts | None = None) -> None:
        self.now_s = 100.0
        self.canary = Canary(protocol, CANDIDATE, STABLE, lambda: self.now_s, history)
        self._count = 0

    def drive(
        self,
        candidate: bool = True,
        success: bool | None = True,
        rules: tuple[str, ...] = (),
        severity: Severity | None = None,
        rollout_id: str = "",
        digest: str | None = None,
        arm: Arm | None = None,
        mixed: bool = False,
    ) -> None:
        """One rollout ends, a minute after the last."""
        self.now_s += 60.0
        self._count += 1
        self.canary.rollout(
            RolloutRecord(
                rollout_id or f"r{self._count}",
                arm or (Arm.CANDIDATE if candidate else Arm.STABLE),
                digest if digest is not None else (CANDIDATE if candidate else STABLE),
                rules,
                severity if severity is not None else (Severity.WARN if rules else None),
                success,
                60.0,
                mixed,
            )
        )

    def until(self, phase: Phase) -> None:
        """Through the phases before one without a finding."""
        self.canary.offline(True, "gates passed")
        while self.canary.state.phase < min(phase, Phase.REDUCED_SPEED):
            self.canary.shadow_rollout(0.05, 0, 40)
        while self.canary.state.phase < phase:
            self.drive()


def make(history: ArmCounts | None = None, **changes: object) -> Bench:
    """A canary of a protocol with some other values; success against a known reference of 0.9."""
    values = {"tsr_reference": 0.9, "require_operator": False, **changes}
    return Bench(Protocol.model_validate(values), history)
