"""One rule at work: its history, its debounce, and how much it slows the arm now."""

from __future__ import annotations

from vlaforget_ros.safety.debounce import Debounce
from vlaforget_ros.safety.rules.base import Reading, RuleSettings, Severity, slow_scale
from vlaforget_ros.safety.rules.registry import make_rule
from vlaforget_ros.safety.samples import ActionSample, ReferenceSample, Sample


class Watch:
    """A rule with what it has seen.

    Args:
        settings: of the rule.

    Attributes:
        rule: the rule itself.
        judged: readings it gave so far; 0 says that it has watched nothing yet.
        momentary: it is about what the policy says, not about where the arm and the people are: when the policy falls
            silent, there is nothing left to put right.
    """

    def __init__(self, settings: RuleSettings) -> None:
        self.settings = settings
        self.rule = make_rule(settings)
        self.judged = 0
        self.momentary = all(kind in (ActionSample, ReferenceSample) for kind in self.rule.judges)
        self._debounce = Debounce(settings.trigger_s, settings.release_s)
        self._scale = 1.0

    @property
    def broken(self) -> bool:
        """Whether the newest reading broke the rule."""
        return self._debounce.broken

    def take(self, sample: Sample) -> Reading | None:
        """Judge a sample of a type that the rule judges; returns the reading that made the rule active, else None."""
        reading = self.rule.check(sample)
        if reading is None:
            return None
        self.judged += 1
        self._scale = slow_scale(self.settings, reading)
        return reading if self._debounce.update(reading.broken, sample.stamp_s) else None

    def slowing(self) -> tuple[float, str] | None:
        """Factor on motion and why, None when this rule does not slow the arm."""
        settings = self.settings
        if settings.level is Severity.SLOW and (self._debounce.active or self.broken):
            return settings.speed_scale, f"{settings.id} is broken"
        if self._scale < 1.0:
            near = "broken" if self.broken else "near its limit"
            return self._scale, f"{settings.id} is {near}"
        return None

    def jumped(self) -> None:
        """The clock of its data was set: what is measured between samples starts anew; what is broken stays so."""
        self.rule.restart()
        self._debounce.pause()

    def restart(self) -> None:
        """A rollout begins: no history. How near the limit the arm is does not change by that."""
        self.rule.restart()
        self._debounce.restart()
        if self.momentary:
            self._scale = 1.0
