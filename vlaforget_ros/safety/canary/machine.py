"""A canary from its start to its verdict: what it hears, what it decides. Fed by a node or by a simulation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from vlaforget_ros.errors import CanaryError, ErrorCode
from vlaforget_ros.safety.canary.memory import Memory, Tally, read_memory
from vlaforget_ros.safety.canary.protocol import Protocol
from vlaforget_ros.safety.canary.sequential import CanaryTests, Evidence
from vlaforget_ros.safety.canary.state import (
    ArmCounts,
    CanaryState,
    Phase,
    RolloutRecord,
    TracePoint,
    Verdict,
)
from vlaforget_ros.safety.rules.base import Severity

_ACCEPTED = "violations and loss of success are shown to be below what must be found out"


class Canary:
    """Decides about one candidate. Not thread-safe: one thread calls it.

    After each rollout: evidence that the candidate violates or fails too often ABORTs; stable's own violations end it
    with HOLD and ``stop``; both tests accepting, after every step of the ramp and ``min_rollouts`` at full speed,
    PROMOTEs (or waits for an operator); ``max_rollouts`` without that is HOLD. A verdict is final: whatever is heard
    afterwards changes nothing.

    Rollouts at reduced speed speak against the candidate and never for it; their success says nothing, as a slow arm
    runs out of steps.

    Args:
        protocol: what to ask for.
        candidate: digest of the adapter under test.
        stable: digest of the one it is compared with, "" for the base model.
        clock: steady clock [s].
        history: stable's counted rollouts before the canary: for its own violation test, and for the reference of
            success where the protocol has no number.

    Raises:
        CanaryError: 500 where both are the same adapter.
    """

    def __init__(
        self,
        protocol: Protocol,
        candidate: str,
        stable: str,
        clock: Callable[[], float],
        history: ArmCounts | None = None,
    ) -> None:
        if candidate == stable:
            raise CanaryError(
                ErrorCode.CANARY_REFUSED,
                "the candidate is the stable adapter",
                value=candidate,
                remedy="stage another adapter as candidate",
            )
        phase = Phase[protocol.phases[0].upper()]
        memory = Memory(protocol=protocol, candidate=candidate, stable=stable, phase=phase)
        memory.history = history or ArmCounts()
        memory.reason = memory.where()
        self._resume(memory, clock)

    @classmethod
    def from_dict(cls, data: dict[str, Any], clock: Callable[[], float]) -> Canary:
        """Go on with a canary as :meth:`to_dict` left it. Raises :class:`CanaryError` 503."""
        canary = cls.__new__(cls)
        canary._resume(read_memory(data), clock)
        return canary

    def _resume(self, memory: Memory, clock: Callable[[], float]) -> None:
        self._memory = memory
        self._clock = clock
        self._started_s = clock() - memory.elapsed_s
        self._heard_s = clock() - memory.idle_s
        self._tests = CanaryTests.of(memory.protocol)
        self._tally = Tally.of(memory)

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON can hold it. The time until :meth:`from_dict` counts for nothing."""
        return self.memory.model_dump(mode="json")

    @property
    def memory(self) -> Memory:
        """All that it remembers, to be looked at and not changed."""
        self._memory.elapsed_s = self._clock() - self._started_s
        self._memory.idle_s = self._clock() - self._heard_s
        return self._memory

    @property
    def protocol(self) -> Protocol:
        """What was asked for."""
        return self._memory.protocol

    @property
    def adapters(self) -> tuple[str, str]:
        """Digests of candidate and stable."""
        return self._memory.candidate, self._memory.stable

    @property
    def history(self) -> ArmCounts:
        """Stable's rollouts before the canary."""
        return self._memory.history

    @property
    def tally(self) -> Tally:
        """Counts of the rollouts that counted."""
        return self._tally

    def shadow(self) -> dict[str, float]:
        """What the shadow phase found: rollouts, steps, mean_distance (0 without steps), would_be_violations."""
        return self._memory.shadow()

    @property
    def trace(self) -> list[TracePoint]:
        """All that was heard, oldest first."""
        return list(self._memory.trace)

    @property
    def state(self) -> CanaryState:
        """Where it stands."""
        m, violation, success, stable = self._memory, *self._evidence()
        driving = m.verdict is Verdict.RUNNING
        slow = m.phase is Phase.REDUCED_SPEED
        return CanaryState(
            m.phase,
            m.weight if driving else 0.0,
            m.protocol.reduced_speed.speed_scale if slow else 1.0,
            m.verdict,
            m.stop,
            m.awaiting,
            m.reason,
            self._tally.slow + self._tally.full,
            self._tally.stable,
            m.shadow_rollouts,
            violation,
            success,
            stable,
        )

    def offline(self, gates_passed: bool, findings: str = "") -> CanaryState:
        """What is known of the candidate before it runs; only heard in the phase offline."""
        if self._listens(Phase.OFFLINE):
            self._note("offline", findings or ("gates passed" if gates_passed else "gates not passed"))
            if self.protocol.offline.require_gates and not gates_passed:
                self._end(Verdict.ABORT, f"the gates were not passed: {findings or 'no findings given'}")
            else:
                self._next_phase()
        return self.state

    def shadow_rollout(self, mean_distance: float, would_be_violations: int, steps: int) -> CanaryState:
        """The candidate computed beside stable for one rollout; only heard in the phase shadow.

        Args:
            mean_distance: of its actions from stable's, over the steps (0: the same, 1: the whole range).
            would_be_violations: how many rules its actions would have broken.
            steps: in which it computed; a rollout without any is no data.
        """
        m, limits = self._memory, self.protocol.shadow
        if not self._listens(Phase.SHADOW):
            return self.state
        if steps <= 0 or not math.isfinite(mean_distance):
            self._note("shadow", f"no data: {steps} steps, mean distance {mean_distance}")
            return self.state
        m.shadow_rollouts += 1
        m.shadow_steps += steps
        m.shadow_distance += mean_distance * steps
        m.would_be_violations += would_be_violations
        text = f"distance {mean_distance:.3f} over {steps} steps, {would_be_violations} would-be violations"
        self._note("shadow", text, counted=True, violated=would_be_violations > 0)
        mean = m.shadow_distance / m.shadow_steps
        if m.would_be_violations > limits.max_would_be_violations:
            most = limits.max_would_be_violations
            self._end(Verdict.ABORT, f"shadow: {m.would_be_violations} would-be violations, at most {most}")
        elif m.shadow_rollouts >= limits.rollouts and mean > limits.max_mean_distance:
            self._end(
                Verdict.ABORT, f"shadow: mean distance {mean:.3f}, at most {limits.max_mean_distance:g}"
            )
        elif m.shadow_rollouts >= limits.rollouts:
            self._next_phase()
        return self.state

    def rollout(self, record: RolloutRecord) -> CanaryState:
        """A rollout ended; heard in every phase, counted by what drove it.

        The same rollout again counts once; rules that a later report adds are added, since a violation must not
        vanish.
        """
        if self._memory.verdict is not Verdict.RUNNING:
            return self.state
        self._heard_s = self._clock()
        severe = record.worst_severity is not None and record.worst_severity >= self.protocol.abort_level
        refused = self._memory.refusal(record)
        if refused:
            self._note("rollout", refused, record=record)
        else:
            self._count(record, severe)
        if severe and not record.mixed and record.adapter_digest == self._memory.candidate:
            rules = ", ".join(record.rules)
            self._end(Verdict.ABORT, f"the candidate broke {rules} in rollout {record.rollout_id}")
        elif not refused:
            self._judge()
        return self.state

    def _count(self, record: RolloutRecord, severe: bool) -> None:
        before, after = self._memory.remember(record)
        if before is after:
            self._note("rollout", "reported again", record=record)
            return
        if before is not None:
            self._tally.add(before, -1)
        self._tally.add(after)
        self._memory.stable_severe |= severe and not after.candidate
        self._note("rollout", "a late violation" if before else "", record=record, counted=before is None)

    def violation(self, adapter_digest: str, severity: Severity, rule: str) -> CanaryState:
        """A rule is being broken now. A severe one by the candidate aborts; all are counted with their rollouts."""
        if self._memory.verdict is not Verdict.RUNNING:
            return self.state
        self._heard_s = self._clock()
        severe = severity >= self.protocol.abort_level
        ours = adapter_digest == self._memory.candidate
        who = (
            "candidate" if ours else "stable" if adapter_digest == self._memory.stable else "another adapter"
        )
        self._memory.stable_severe |= severe and who == "stable"
        self._note("violation", f"{who}: {rule} ({severity.name.lower()})", violated=True)
        if severe and ours:
            self._end(Verdict.ABORT, f"the candidate broke {rule} ({severity.name.lower()})")
        return self.state

    def tick(self) -> CanaryState:
        """Look at the clock: a canary that hears nothing for ``no_data_s`` has failed.

        While the candidate drives that is ABORT, as nobody can say that the arm is well; else HOLD. One that waits
        for its operator waits for ever.
        """
        m = self._memory
        silent_s = self._clock() - self._heard_s
        if m.verdict is Verdict.RUNNING and not m.awaiting and silent_s > m.protocol.no_data_s:
            verdict = Verdict.ABORT if m.weight > 0.0 else Verdict.HOLD
            self._end(verdict, f"no data for {silent_s:.0f} s, at most {m.protocol.no_data_s:g} s")
        return self.state

    def returned(self, away_s: float) -> CanaryState:
        """Whoever feeds the canary was away, and goes on now.

        Away for longer than ``no_data_s`` is HOLD: rollouts that nobody saw tell nothing, also nothing against the
        candidate. One that waits for its operator goes on waiting.

        Args:
            away_s: for how long [s].
        """
        m = self._memory
        if m.verdict is not Verdict.RUNNING:
            return self.state
        self._heard_s = self._clock()
        self._note("restart", f"goes on after {away_s:.0f} s in which nobody watched")
        if not m.awaiting and away_s > (limit := m.protocol.no_data_s):
            self._end(Verdict.HOLD, f"nobody watched for {away_s:.0f} s, at most {limit:g} s")
        return self.state

    def approve(self, operator: str) -> CanaryState:
        """An operator agrees to the promotion.

        Raises:
            CanaryError: 502 where nothing waits for one.
        """
        if not self._memory.awaiting:
            raise CanaryError(
                ErrorCode.CANARY_NOT_AWAITED,
                "no promotion waits for an operator",
                value=self._memory.verdict.name,
                remedy="wait until the canary says that it waits",
            )
        self._note("operator", f"approved by {operator}")
        self._end(Verdict.PROMOTE, f"{_ACCEPTED}; approved by {operator}")
        return self.state

    def cancel(self, reason: str) -> CanaryState:
        """Somebody ends it: HOLD. Without effect after a verdict."""
        if self._memory.verdict is Verdict.RUNNING:
            self._end(Verdict.HOLD, f"cancelled: {reason}")
        return self.state

    def _evidence(self) -> tuple[Evidence, Evidence, Evidence]:
        slow, full, stable = self._tally.slow, self._tally.full, self._tally.stable + self._memory.history
        return (
            self._tests.violations.evidence(full.violated, full.rollouts, (slow.violated, slow.rollouts)),
            self._tests.success.evidence(full.failed, full.rollouts, stable.failed, stable.rollouts),
            self._tests.stable.evidence(stable.violated, stable.rollouts),
        )

    def _judge(self) -> None:
        m = self._memory
        if m.verdict is not Verdict.RUNNING:
            return
        violation, success, stable = self._evidence()
        if violation.aborts:
            self._end(
                Verdict.ABORT, f"the candidate violates in more than {m.protocol.svr_ok:g} of its rollouts"
            )
        elif success.aborts:
            lost = m.protocol.tsr_loss_ok
            self._end(
                Verdict.ABORT, f"the candidate succeeds in over {lost:g} fewer of its rollouts than stable"
            )
        elif stable.aborts and m.protocol.stable_failing == "hold":
            self._end(
                Verdict.HOLD, f"stable itself violates in more than {m.protocol.svr_ok:g} of its rollouts"
            )
        elif (
            m.phase is Phase.REDUCED_SPEED and self._tally.slow.rollouts >= m.protocol.reduced_speed.rollouts
        ):
            self._next_phase()
        elif m.phase is Phase.RAMP:
            self._judge_ramp(violation, success)

    def _judge_ramp(self, violation: Evidence, success: Evidence) -> None:
        m, full = self._memory, self._tally.full.rollouts
        step = min(full // m.protocol.ramp.rollouts, len(m.protocol.ramp.weights) - 1)
        if step > m.step:
            m.step = step
            m.reason = m.where()
            self._note("phase", m.reason)
        ready = full >= m.protocol.earliest and violation.accepts and success.accepts
        was_ready, m.awaiting = m.awaiting, ready and m.protocol.require_operator
        if m.awaiting:
            m.reason = f"{_ACCEPTED}; promotion waits for an operator"
        elif ready:
            self._end(Verdict.PROMOTE, _ACCEPTED)
        elif full >= m.protocol.max_rollouts:
            tests = (("violations", violation), ("success", success))
            undecided = " and ".join(name for name, test in tests if not test.accepts)
            self._end(Verdict.HOLD, f"undecided after {full} rollouts at full speed: {undecided}")
        elif was_ready:
            m.reason = m.where()

    def _next_phase(self) -> None:
        m = self._memory
        later = [Phase[name.upper()] for name in m.protocol.phases if Phase[name.upper()] > m.phase]
        if not later:
            self._end(Verdict.HOLD, "the protocol has no ramp: nothing was shown at full speed")
            return
        m.phase = later[0]
        m.reason = m.where()
        self._note("phase", m.reason)

    def _end(self, verdict: Verdict, reason: str) -> None:
        m = self._memory
        severe_both = verdict is Verdict.ABORT and m.stable_severe
        # Of a stable that is known to misbehave nobody expects better: only a candidate that fails too is news.
        expected = m.protocol.stable_failing == "go_on" and verdict is Verdict.HOLD
        failed = self._evidence()[2].aborts and not expected
        m.stop = verdict is not Verdict.PROMOTE and (failed or severe_both)
        m.verdict, m.awaiting = verdict, False
        m.reason = f"{reason}; stable failed too: stop the arm" if m.stop else reason
        self._note("verdict", m.reason)

    def _listens(self, phase: Phase) -> bool:
        if self._memory.verdict is not Verdict.RUNNING:
            return False
        self._heard_s = self._clock()
        return self._memory.phase is phase

    def _note(
        self,
        event: str,
        note: str,
        *,
        record: RolloutRecord | None = None,
        counted: bool = False,
        violated: bool = False,
    ) -> None:
        m, (violation, success, stable) = self._memory, self._evidence()
        point = TracePoint(
            index=len(m.trace),
            stamp_s=self._clock() - self._started_s,
            event=event,
            phase=m.phase.name,
            weight=m.weight,
            arm=record.arm.value if record else "",
            rollout_id=record.rollout_id if record else "",
            counted=counted,
            violated=bool(record.rules) if record else violated,
            success=record.success if record else None,
            note=note,
            violation=violation,
            success_test=success,
            stable_violation=stable,
            verdict=m.verdict.name,
        )
        m.trace.append(point)
