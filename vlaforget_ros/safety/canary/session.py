"""A canary beside a running robot: rollouts as they begin, break rules and end, turned into what the machine counts."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter

from vlaforget_ros.safety.canary.machine import Canary
from vlaforget_ros.safety.canary.state import Arm, Phase, RolloutRecord, Verdict
from vlaforget_ros.safety.rules.base import Severity
from vlaforget_ros.safety.shadow import Position, ShadowBook


@dataclass
class _Rollout:
    """One that began within the canary; violations may come after its end."""

    arm: Arm
    digest: str
    began_s: float
    rules: set[str] = field(default_factory=set)
    worst: Severity | None = None
    ended: RolloutRecord | None = None
    unseen: bool = False


_ROLLOUT = TypeAdapter(_Rollout)


class _Kept(BaseModel):
    model_config = ConfigDict(extra="forbid")

    rollouts: dict[str, _Rollout]
    driving: str


class CanarySession:
    """What is heard of one canary. Not thread-safe.

    Rollouts that were running when it began are none of its.

    Args:
        canary: decides.
        shadows: pairs the actions of candidate and stable.
        clock: steady clock [s].
    """

    def __init__(self, canary: Canary, shadows: ShadowBook, clock: Callable[[], float]) -> None:
        self.canary = canary
        self._shadows, self._clock = shadows, clock
        self._rollouts: dict[str, _Rollout] = {}
        self._driving = ""
        self._position: Position | None = None
        self._told_of_past = True
        self._changes = 0
        self._texts: dict[str, str] = {}

    def to_json(self) -> str:
        """Its rollouts as JSON text, of which only what changed is made anew; the canary itself has its own."""
        for rollout_id, rollout in self._rollouts.items():
            if rollout_id not in self._texts:
                self._texts[rollout_id] = f"{json.dumps(rollout_id)}: {_ROLLOUT.dump_json(rollout).decode()}"
        rollouts = ", ".join(self._texts.values())
        return f'{{"driving": {json.dumps(self._driving)}, "rollouts": {{{rollouts}}}}}'

    def resume(self, data: dict[str, Any]) -> None:
        """Go on after a gap with what :meth:`to_json` gave.

        A rollout that ran when the gap began counts with the rules that were seen broken, as one that was aborted;
        without any, it counts for nothing. The first message about a rollout may be old news: where it tells of a
        beginning, nobody knows whether all of that rollout is seen.

        Raises:
            ValueError: for data that are none (pydantic.ValidationError).
        """
        kept = _Kept.model_validate(data)
        self._rollouts, self._driving, self._told_of_past = kept.rollouts, kept.driving, False
        for rollout_id, rollout in self._rollouts.items():
            rollout.began_s = self._clock()
            if rollout.ended is not None:
                continue
            rollout.unseen = True
            if rollout.rules:
                rollout.ended = RolloutRecord(rollout_id, rollout.arm, rollout.digest, unseen=True)
                self.canary.rollout(_with_rules(rollout, rollout.ended))

    @property
    def mark(self) -> tuple[int, int]:
        """Another one each time that this session or its canary has changed."""
        return self._changes, len(self.canary.memory.trace)

    @property
    def candidate_drives(self) -> bool:
        """Whether the rollout that runs now is the candidate's."""
        running = self._rollouts.get(self._driving)
        return running is not None and running.arm is Arm.CANDIDATE

    @property
    def speed_scale(self) -> float:
        """Factor on the arm's motion that the protocol wants now, 0..1."""
        state = self.canary.state
        wanted = self.candidate_drives and state.verdict is Verdict.RUNNING
        return state.speed_scale if wanted else 1.0

    def pose(self, position: Position) -> None:
        """Where the end effector is [m]."""
        self._position = position

    def acted(self, rollout_id: str, step: int, action: Sequence[float]) -> None:
        """The policy acted."""
        if self._in_shadow():
            self._shadows.stable(rollout_id, step, action, self._position)

    def shadowed(self, rollout_id: str, step: int, action: Sequence[float], fault: int, digest: str) -> None:
        """An adapter that only computes would have acted so."""
        if self._in_shadow() and digest == self.canary.adapters[0]:
            self._shadows.shadow(rollout_id, step, action, fault)

    def serves(self, digest: str) -> None:
        """The policy says which adapter serves it. One that is neither arm's ends the canary with HOLD."""
        if digest not in self.canary.adapters:
            self.canary.cancel(f"the policy serves another adapter by now: {digest[:12] or 'the base model'}")

    def began(self, rollout_id: str, arm: Arm, digest: str) -> None:
        """A rollout began."""
        unseen, self._told_of_past = not self._told_of_past, True
        self._rollouts.setdefault(rollout_id, _Rollout(arm, digest, self._clock(), unseen=unseen))
        self._driving = rollout_id
        self._changed(rollout_id)

    def violated(self, rollout_id: str, rule: str, severity: Severity) -> None:
        """A rule was broken in a rollout, whoever saw it, also after its end."""
        rollout = self._rollouts.get(rollout_id)
        if rollout is None or rule in rollout.rules:
            return
        rollout.rules.add(rule)
        rollout.worst = max(rollout.worst or Severity.WARN, severity)
        self._changed(rollout_id)
        self.canary.violation(rollout.digest, severity, rule)
        if rollout.ended is not None:
            self.canary.rollout(_with_rules(rollout, rollout.ended))

    def ended(self, rollout_id: str, digest: str, success: bool | None) -> None:
        """A rollout ended with this adapter; ``success`` is None where it was aborted."""
        rollout = self._rollouts.get(rollout_id)
        self._told_of_past = True
        if self._driving == rollout_id:
            self._driving = ""
            self._changed(rollout_id)
        if rollout is None or rollout.ended is not None:
            return
        rollout.ended = RolloutRecord(
            rollout_id,
            rollout.arm,
            rollout.digest,
            success=success,
            duration_s=self._clock() - rollout.began_s,
            mixed=digest != rollout.digest,
            unseen=rollout.unseen,
        )
        self._changed(rollout_id)
        if self._in_shadow() and not rollout.unseen:
            found = self._shadows.ended(rollout_id)
            self.canary.shadow_rollout(found.mean_distance, found.would_be_violations, found.steps)
        self.canary.rollout(_with_rules(rollout, rollout.ended))

    def _changed(self, rollout_id: str) -> None:
        self._texts.pop(rollout_id, None)
        self._changes += 1

    def _in_shadow(self) -> bool:
        state = self.canary.state
        return state.phase is Phase.SHADOW and state.verdict is Verdict.RUNNING


def _with_rules(rollout: _Rollout, ended: RolloutRecord) -> RolloutRecord:
    return replace(ended, violated_rules=tuple(sorted(rollout.rules)), worst_severity=rollout.worst)
