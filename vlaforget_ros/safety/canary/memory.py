"""All that a canary remembers, so that it survives the end of its process."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vlaforget_ros.errors import CanaryError, ErrorCode
from vlaforget_ros.safety.canary.protocol import Protocol
from vlaforget_ros.safety.canary.state import Arm, ArmCounts, Phase, RolloutRecord, TracePoint, Verdict

FORMAT = 1


class Entry(BaseModel):
    """A rollout that counted.

    Args:
        candidate: driven by the candidate, else by stable.
        full_speed: whether it tells about full speed: all but the candidate's in reduced_speed.
        rules: that were broken.
        success: carried out; an aborted one is not.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    candidate: bool
    full_speed: bool
    rules: tuple[str, ...]
    success: bool


class Memory(BaseModel):
    """What a canary is and heard. Mutable: the machine changes it.

    Args:
        format: of this record.
        protocol: what was asked for.
        candidate: digest.
        stable: digest, "" for the base model.
        history: stable's rollouts before the canary.
        phase: where it is.
        step: of the ramp, from 0.
        verdict: so far.
        reason: of the verdict, or what is waited for.
        stop: stable failed too.
        awaiting: an operator.
        stable_severe: stable had a violation that aborts a candidate.
        shadow_rollouts: that counted.
        shadow_steps: steps of these.
        shadow_distance: sum over these steps.
        would_be_violations: in all of them.
        elapsed_s: age of the canary when this was written [s].
        idle_s: how long nothing had been heard then [s].
        entries: rollouts that counted, by name.
        trace: all that was heard.
    """

    model_config = ConfigDict(extra="forbid")

    format: int = FORMAT
    protocol: Protocol
    candidate: str
    stable: str
    history: ArmCounts = ArmCounts()
    phase: Phase
    step: int = Field(default=0, ge=0)
    verdict: Verdict = Verdict.RUNNING
    reason: str = ""
    stop: bool = False
    awaiting: bool = False
    stable_severe: bool = False
    shadow_rollouts: int = 0
    shadow_steps: int = 0
    shadow_distance: float = 0.0
    would_be_violations: int = 0
    elapsed_s: float = 0.0
    idle_s: float = 0.0
    entries: dict[str, Entry] = {}
    trace: list[TracePoint] = []

    @property
    def weight(self) -> float:
        """The candidate's share of the rollouts while the canary runs, 0..1."""
        if self.phase is Phase.RAMP:
            return self.protocol.ramp.weights[self.step]
        return 1.0 if self.phase is Phase.REDUCED_SPEED else 0.0

    def shadow(self) -> dict[str, float]:
        """As :meth:`Canary.shadow`."""
        mean = self.shadow_distance / self.shadow_steps if self.shadow_steps else 0.0
        return {
            "rollouts": self.shadow_rollouts,
            "steps": self.shadow_steps,
            "mean_distance": mean,
            "would_be_violations": self.would_be_violations,
        }

    def where(self) -> str:
        """Phase and step, one line for a person."""
        protocol = self.protocol
        if self.phase is Phase.RAMP:
            weights = protocol.ramp.weights
            return f"ramp, step {self.step + 1} of {len(weights)}: {weights[self.step]:.0%} of the rollouts"
        return {
            Phase.OFFLINE: "offline: waits for the findings about the gates",
            Phase.SHADOW: f"shadow: {protocol.shadow.rollouts} rollouts beside stable",
            Phase.REDUCED_SPEED: f"reduced speed: {protocol.reduced_speed.rollouts} rollouts",
        }[self.phase]

    def refusal(self, record: RolloutRecord) -> str:
        """Why a rollout counts for neither adapter, "" where it counts."""
        expected = {Arm.CANDIDATE: self.candidate, Arm.STABLE: self.stable}
        if record.mixed:
            return "not counted: its adapter changed on the way"
        if record.adapter_digest not in expected.values():
            return (
                f"refused: driven by {record.adapter_digest[:12] or 'the base'}, neither candidate nor stable"
            )
        if record.arm is Arm.PINNED:
            return "not counted: somebody chose its adapter"
        if record.adapter_digest != expected[record.arm]:
            return f"refused: said to be {record.arm.value}, driven by the other adapter"
        if record.unseen and not record.rules:
            return "not counted: the monitor was away for some of it"
        known = record.rollout_id in self.entries
        if record.arm is Arm.CANDIDATE and not known and self.phase < Phase.REDUCED_SPEED:
            return f"refused: the candidate does not drive in {self.phase.name.lower()}"
        if record.success is None and not record.rules:
            return "not counted: aborted without a violation"
        return ""

    def remember(self, record: RolloutRecord) -> tuple[Entry | None, Entry]:
        """The entry of a rollout before and after this report; both the same where it is no news."""
        before = self.entries.get(record.rollout_id)
        rules = frozenset(record.rules)
        if before is not None:
            if rules <= set(before.rules):
                return before, before
            after = before.model_copy(update={"rules": tuple(sorted(rules | set(before.rules)))})
        else:
            ours = record.arm is Arm.CANDIDATE
            after = Entry(
                candidate=ours,
                full_speed=not (ours and self.phase is Phase.REDUCED_SPEED),
                rules=tuple(sorted(rules)),
                success=bool(record.success),
            )
        self.entries[record.rollout_id] = after
        return before, after


def read_memory(data: dict[str, Any]) -> Memory:
    """The counterpart of ``model_dump(mode="json")``. Raises :class:`CanaryError` 503 (501 for its protocol)."""
    try:
        memory = Memory.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        field_name = ".".join(str(part) for part in first["loc"])
        raise CanaryError(
            ErrorCode.CANARY_BAD_RECORD,
            f"the stored canary is unusable: {field_name}: {first['msg']}",
            remedy="start the canary again",
        ) from error
    if memory.format != FORMAT:
        raise CanaryError(
            ErrorCode.CANARY_BAD_RECORD,
            "the stored canary has another format",
            value=memory.format,
            limit=FORMAT,
            remedy="start the canary again",
        )
    return memory


@dataclass
class Tally:
    """Counts of the rollouts that counted.

    Args:
        slow: the candidate's at reduced speed.
        full: the candidate's at full speed.
        stable: stable's.
        rules: rollouts in which a rule was broken, by (driven by the candidate, rule).
    """

    slow: ArmCounts = field(default_factory=ArmCounts)
    full: ArmCounts = field(default_factory=ArmCounts)
    stable: ArmCounts = field(default_factory=ArmCounts)
    rules: Counter[tuple[bool, str]] = field(default_factory=Counter)

    @classmethod
    def of(cls, memory: Memory) -> Tally:
        """From the entries."""
        tally = cls()
        for entry in memory.entries.values():
            tally.add(entry)
        return tally

    def add(self, entry: Entry, sign: int = 1) -> None:
        """Count an entry, or with ``sign`` -1 take it away again."""
        one = ArmCounts(sign, sign * bool(entry.rules), sign * entry.success)
        if not entry.candidate:
            self.stable += one
        elif entry.full_speed:
            self.full += one
        else:
            self.slow += one
        for rule in entry.rules:
            self.rules[entry.candidate, rule] += sign
