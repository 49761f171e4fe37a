"""What the safety monitor decides: events from samples, the arm's state, and a latched stop with a reason."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from vlaforget_ros.episodes.flags import OPERATOR_RULE, flag_message
from vlaforget_ros.errors import ErrorCode, SafetyError, did_you_mean
from vlaforget_ros.safety.config import SafetyConfig
from vlaforget_ros.safety.events import ArmState, Event, MonitorStatus
from vlaforget_ros.safety.inputs import Inputs, Use
from vlaforget_ros.safety.ratebook import RateBook
from vlaforget_ros.safety.rules.base import ExpectsAdapter, Places, Reading, RuleSettings, Severity
from vlaforget_ros.safety.samples import NAMES, SENSORS, Point, PoseSample, Sample, TickSample
from vlaforget_ros.safety.watch import Watch

__all__ = ["OPERATOR_RULE", "ArmState", "Event", "MonitorStatus", "SafetyMonitor"]


@dataclass(frozen=True)
class _Running:
    rollout_id: str = ""
    digest: str = ""
    since_s: float = 0.0


class SafetyMonitor:
    """Judges live samples, latches stops and keeps the rates. Not thread-safe: one thread calls it.

    Every (rollout, rule) becomes one event, whether the monitor or somebody else saw it first. Outside
    rollouts a rule gives an event each time it becomes active. Not a safety-rated device.

    Args:
        config: rules, frame, limits of staleness, level of the intervals.
        clock: steady clock [s], for the staleness of inputs and the length of rollouts.
    """

    def __init__(self, config: SafetyConfig, clock: Callable[[], float]) -> None:
        self._config = config
        self._clock = clock
        self._watches = [Watch(settings) for settings in config.rules]
        self._of: dict[type, list[Watch]] = {}
        for watch in self._watches:
            for kind in watch.rule.judges:
                self._of.setdefault(kind, []).append(watch)
        self._inputs = Inputs(config.inputs(), config.frame, clock)
        self._needed = sorted({NAMES.get(kind, "") for kind in self._of} & SENSORS)
        self._book = RateBook(config.level)
        self._running = _Running()
        self._latched = ""
        self._cap: tuple[float, str] = (1.0, "")
        self._newest = (0.0, clock())

    @property
    def rates(self) -> RateBook:
        """The counts behind the rates, for reports and for keeping them over a restart."""
        return self._book

    @property
    def latched(self) -> str:
        """Reason of the stop that only an operator releases, "" without one."""
        return self._latched

    def take(self, sample: Sample) -> tuple[Event, ...]:
        """Judge one sample of any input; returns the events to publish.

        A sample that cannot be judged, repeats the stamp before or is older than it counts as none. After a jump of
        the data's clock, forwards or backwards, what is measured between samples starts anew.
        """
        use = self._inputs.take(sample)
        if use is Use.NONE:
            return ()
        self._newest = (sample.stamp_s, self._clock())
        watches = self._of.get(type(sample), ())
        if use is Use.JUMPED:
            for watch in watches:
                watch.jumped()
        return self._check(watches, sample, sample.stamp_s)

    def pose(self, sample: PoseSample) -> tuple[Event, ...]:
        """:meth:`take` of a pose."""
        return self.take(sample)

    def tick(self, absent: Collection[str] = ()) -> tuple[Event, ...]:
        """Time has passed; returns the events of rules about what did not arrive. Call it a few times a second.

        Args:
            absent: inputs that nobody recorded (replay): their silence says nothing.
        """
        watches = self._of.get(TickSample, ())
        if not watches:
            return ()
        now = self._clock()
        ages = {name: age for name, age in self._inputs.ages().items() if name not in absent}
        sample = TickSample(now, ages, bool(self._running.rollout_id))
        # Events carry the clock of the data, which may be simulated: carried on from its newest stamp.
        stamp_s, arrived_s = self._newest
        return self._check(watches, sample, stamp_s + (now - arrived_s))

    def expect(self, digest: str | None) -> None:
        """The adapter that shall drive from now on ("" for the base model), None for no expectation."""
        for watch in self._watches:
            if isinstance(watch.rule, ExpectsAdapter):
                watch.rule.expect(digest)

    def cap_speed(self, scale: float, reason: str) -> None:
        """Slow the arm from outside the rules.

        Args:
            scale: factor on motion, 0..1; 1 takes the cap away.
            reason: one clause for a person.

        Raises:
            SafetyError: 403 for another factor; the cap before stays.
        """
        if not 0.0 <= scale <= 1.0:
            raise SafetyError(
                ErrorCode.SAFETY_BAD_RULE,
                "the speed cannot be capped so",
                value=scale,
                limit="0..1",
                remedy="give a factor on motion; 1 for none",
            )
        self._cap = (scale, reason)

    def stop(self, reason: str) -> None:
        """Latch a stop, as a program asks for it; the reason of an earlier one stays."""
        self._latched = self._latched or reason or "stopped by a program"

    def foresee(self, position: Point, frame: str = "") -> tuple[str, ...]:
        """Rules about places alone that a pose there would break. Nothing is counted, latched or remembered.

        Args:
            position: x y z [m]; one that is not finite breaks every such rule.
            frame: of the position, "" for that of the rules.

        Raises:
            SafetyError: 401 for another frame: nothing can be said then.
        """
        if frame not in ("", self._config.frame):
            raise SafetyError(
                ErrorCode.SAFETY_STALE_INPUT,
                "the position cannot be judged: it is in another frame",
                value=frame,
                limit=self._config.frame,
                remedy="transform it into the frame of the rules",
            )
        lost = not all(math.isfinite(p) for p in position)
        places = [watch.rule for watch in self._watches if isinstance(watch.rule, Places)]
        return tuple(rule.settings.id for rule in places if lost or rule.at(position).broken)

    def readings(self) -> dict[str, int]:
        """Rule id to how many samples it judged so far."""
        return {watch.settings.id: watch.judged for watch in self._watches}

    def unjudged(self) -> tuple[RuleSettings, ...]:
        """Rules that have not given one reading so far."""
        return tuple(watch.settings for watch in self._watches if not watch.judged)

    def rollout_started(self, rollout_id: str, digest: str) -> None:
        """The policy began a rollout with this adapter."""
        self._running = _Running(rollout_id, digest, self._clock())
        self._inputs.restart()
        self._book.start(rollout_id, digest)
        for watch in self._watches:
            watch.restart()

    def rollout_ended(self, rollout_id: str, digest: str, success: bool | None) -> None:
        """The policy ended a rollout; ``success`` is None when it was aborted."""
        self._book.end(rollout_id, digest, success)
        if rollout_id == self._running.rollout_id:
            self._running = _Running()
            for watch in self._watches:
                if watch.momentary:
                    watch.restart()

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
        return self._book.violation(event.rollout_id, event.adapter_digest, event.rule, event.severity)

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
            self._newest[0],
            1.0,
            0.0,
            "",
            flag_message(note),
            self._running.rollout_id,
            self._running.digest,
        )
        self.violation(event)
        return event

    def release(self) -> str:
        """Acknowledge a latched stop; returns its reason, "" when there was none.

        Raises:
            SafetyError: 400 while a rule of severity stop about the arm or its surroundings is still broken: the stop
                stays latched. A rule about actions holds nothing back: a held arm is given no other ones.
        """
        for watch in self._watches:
            if watch.settings.level is Severity.STOP and watch.broken and not watch.momentary:
                raise SafetyError(
                    ErrorCode.SAFETY_STOPPED,
                    "the stop stays: its rule is still broken",
                    value=watch.settings.id,
                    remedy="take the cause away (move the arm out of there by hand), then release again",
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
        hold = self._latched or self._stale() or self._endless()
        if hold:
            return ArmState.STOPPED, 0.0, hold
        slow = [found for watch in self._watches if (found := watch.slowing()) is not None]
        if self._cap[0] < 1.0:
            slow.append(self._cap)
        if slow:
            scale, reason = min(slow, key=lambda found: found[0])
            return ArmState.SLOWED, scale, reason
        return ArmState.NOMINAL, 1.0, ""

    def _stale(self) -> str:
        """Reason to hold while a rollout runs blind; it passes by itself with the next usable sample."""
        if not self._running.rollout_id:
            return ""
        name, age, cause = self._inputs.oldest(self._needed)
        limit = self._config.stale_after_s
        if age <= limit:
            return ""
        code = int(ErrorCode.SAFETY_STALE_INPUT)
        return f"[{code}] no usable {name} for {age:.1f} s (limit {limit:g} s): {cause}"

    def _endless(self) -> str:
        """Reason to hold when a rollout never ends; it passes with its end or the next start."""
        limit = self._config.max_rollout_s
        if not self._running.rollout_id or self._clock() - self._running.since_s <= limit:
            return ""
        code = int(ErrorCode.SAFETY_STALE_INPUT)
        return f"[{code}] no end of rollout {self._running.rollout_id} within {limit:g} s"

    def _check(self, watches: Sequence[Watch], sample: Sample, stamp_s: float) -> tuple[Event, ...]:
        events = []
        for watch in watches:
            reading = watch.take(sample)
            if reading is not None:
                event = self._event(watch.settings, reading, stamp_s)
                if self.violation(event):
                    events.append(event)
        return tuple(events)

    def _event(self, settings: RuleSettings, reading: Reading, stamp_s: float) -> Event:
        return Event(
            settings.id,
            settings.level,
            stamp_s,
            reading.value,
            reading.limit,
            reading.unit,
            reading.message,
            self._running.rollout_id,
            self._running.digest,
        )
