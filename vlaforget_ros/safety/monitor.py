"""What the safety monitor decides: events from poses, the arm's state, and a latched stop with a reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum

from vlaforget_ros.errors import ErrorCode, SafetyError, did_you_mean
from vlaforget_ros.safety.config import SafetyConfig
from vlaforget_ros.safety.debounce import Debounce
from vlaforget_ros.safety.ratebook import RateBook, RateEstimate
from vlaforget_ros.safety.rules.base import PoseSample, Reading, Rule, Severity
from vlaforget_ros.safety.rules.registry import make_rule

OPERATOR_RULE = "operator/flag"
"""Rule id an operator may always flag, besides the configured ones."""


class ArmState(IntEnum):
    """What the arm may do; the numbers of SafetyStatus.state."""

    NOMINAL = 0
    SLOWED = 1
    STOPPED = 2


@dataclass(frozen=True)
class Event:
    """A rule was broken.

    Args:
        rule: rule id.
        severity: what it does to the arm.
        stamp_s: when, on the clock of the data [s].
        value: what was measured, in ``unit``.
        limit: what is allowed, in ``unit``.
        unit: SI unit, "" for none.
        message: one line for a person.
        rollout_id: rollout it happened in, "" for none.
        adapter_digest: adapter that drove the arm, "" for the base model.
    """

    rule: str
    severity: Severity
    stamp_s: float
    value: float
    limit: float
    unit: str
    message: str
    rollout_id: str = ""
    adapter_digest: str = ""


@dataclass(frozen=True)
class MonitorStatus:
    """What SafetyStatus says.

    Args:
        state: what the arm may do.
        speed_scale: factor on commanded motion, 0..1.
        reason: why it is slowed or stopped, "" when nominal.
        estimates: rates, one per adapter seen.
    """

    state: ArmState
    speed_scale: float
    reason: str
    estimates: tuple[RateEstimate, ...]


@dataclass(frozen=True)
class _Running:
    rollout_id: str = ""
    digest: str = ""


class SafetyMonitor:
    """Judges live poses, latches stops and keeps the rates. Not thread-safe: one thread calls it.

    Every (rollout, rule) becomes one event, whether the monitor or somebody else saw it first. Outside
    rollouts a rule gives an event each time it becomes active. Not a safety-rated device.

    Args:
        config: rules, frame, limits of staleness, level of the intervals.
        clock: steady clock [s], for the staleness of the input.
    """

    def __init__(self, config: SafetyConfig, clock: Callable[[], float]) -> None:
        self._config = config
        self._clock = clock
        self._rules: list[tuple[Rule, Debounce]] = [
            (make_rule(settings), Debounce(settings.trigger_s, settings.release_s))
            for settings in config.rules
        ]
        self._book = RateBook(config.level)
        self._running = _Running()
        self._latched = ""
        self._bad_input = ""
        self._fresh_at = clock()
        self._last_stamp_s = 0.0

    def pose(self, sample: PoseSample) -> tuple[Event, ...]:
        """Judge one pose; returns the events to publish. A pose that cannot be judged is as good as none."""
        self._bad_input = self._unusable(sample)
        if self._bad_input:
            return ()
        self._fresh_at = self._clock()
        self._last_stamp_s = sample.stamp_s
        events = []
        for rule, debounce in self._rules:
            reading = rule.check(sample)
            if reading is not None and debounce.update(reading.broken, sample.stamp_s):
                event = self._event(rule, reading, sample.stamp_s)
                if self.violation(event):
                    events.append(event)
        return tuple(events)

    def rollout_started(self, rollout_id: str, digest: str) -> None:
        """The policy began a rollout with this adapter."""
        self._running = _Running(rollout_id, digest)
        self._fresh_at = self._clock()
        self._book.start(rollout_id, digest)
        for rule, debounce in self._rules:
            rule.restart()
            debounce.restart()

    def rollout_ended(self, rollout_id: str, digest: str, success: bool | None) -> None:
        """The policy ended a rollout; ``success`` is None when it was aborted."""
        self._book.end(rollout_id, digest, success)
        if rollout_id == self._running.rollout_id:
            self._running = _Running()

    def outcome(self, rollout_id: str, success: bool) -> None:
        """Somebody knows how a rollout ended; what the policy says about its end overrides this."""
        if rollout_id == self._running.rollout_id:
            self._book.end(rollout_id, self._running.digest, success)

    def violation(self, event: Event) -> bool:
        """Take a violation from any source; returns whether it is news. A STOP latches anyway."""
        if event.severity is Severity.STOP and not self._latched:
            self._latched = f"{event.rule}: {event.message}"
        if not event.rollout_id:
            return True
        return self._book.violation(event.rollout_id, event.adapter_digest, event.rule)

    def flag(self, rule: str, note: str) -> Event:
        """An operator says that a rule was broken now. Raises SafetyError 402 for an unknown rule."""
        known = (*self._config.rule_ids(), OPERATOR_RULE)
        if rule not in known:
            raise SafetyError(
                ErrorCode.SAFETY_UNKNOWN_RULE, "unknown rule", value=rule, remedy=did_you_mean(rule, known)
            )
        levels = {settings.id: settings.level for settings in self._config.rules}
        event = Event(
            rule,
            levels.get(rule, Severity.WARN),
            self._last_stamp_s,
            1.0,
            0.0,
            "",
            f"operator: {note}" if note else "flagged by an operator",
            self._running.rollout_id,
            self._running.digest,
        )
        self.violation(event)
        return event

    def release(self) -> str:
        """Acknowledge a latched stop; returns its reason, "" when there was none.

        Raises:
            SafetyError: 400 while a rule of severity stop is still broken: the stop stays latched.
        """
        for rule, debounce in self._rules:
            if rule.settings.level is Severity.STOP and debounce.broken:
                raise SafetyError(
                    ErrorCode.SAFETY_STOPPED,
                    "the stop stays: its rule is still broken",
                    value=rule.settings.id,
                    remedy="move the arm out of there by hand, then release again",
                )
        reason, self._latched = self._latched, ""
        return reason

    def rules_broken(self, rollout_id: str) -> frozenset[str]:
        """Rules broken in a rollout so far."""
        return self._book.rules_broken(rollout_id)

    def motion(self) -> tuple[ArmState, float]:
        """State and speed scale now; cheaper than :meth:`status`."""
        return self._judge()[:2]

    def status(self) -> MonitorStatus:
        """State, scale and reason now, and the rates."""
        state, scale, reason = self._judge()
        return MonitorStatus(state, scale, reason, self._book.estimates())

    def _judge(self) -> tuple[ArmState, float, str]:
        if self._latched:
            return ArmState.STOPPED, 0.0, self._latched
        stale = self._stale()
        if stale:
            return ArmState.STOPPED, 0.0, stale
        slow = [
            rule.settings
            for rule, debounce in self._rules
            if rule.settings.level is Severity.SLOW and (debounce.active or debounce.broken)
        ]
        if slow:
            slowest = min(slow, key=lambda settings: settings.speed_scale)
            return ArmState.SLOWED, slowest.speed_scale, f"{slowest.id} is broken"
        return ArmState.NOMINAL, 1.0, ""

    def _stale(self) -> str:
        """Reason to hold while a rollout runs blind; it passes by itself with the next usable pose."""
        age = self._clock() - self._fresh_at
        if not self._running.rollout_id or age <= self._config.stale_after_s:
            return ""
        cause = self._bad_input or "none arrived"
        return (
            f"[{int(ErrorCode.SAFETY_STALE_INPUT)}] no usable ee_pose for {age:.1f} s"
            f" (limit {self._config.stale_after_s:g} s): {cause}"
        )

    def _unusable(self, sample: PoseSample) -> str:
        if not sample.finite:
            return "the pose is not finite"
        # Many drivers leave the frame empty: the configured frame is then assumed.
        if sample.frame and sample.frame != self._config.frame:
            return f"the pose is in frame {sample.frame!r}, the rules are in {self._config.frame!r}"
        return ""

    def _event(self, rule: Rule, reading: Reading, stamp_s: float) -> Event:
        settings = rule.settings
        event = Event(
            settings.id, settings.level, stamp_s, reading.value, reading.limit, reading.unit, reading.message
        )
        return replace(event, rollout_id=self._running.rollout_id, adapter_digest=self._running.digest)
