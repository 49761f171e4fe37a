"""Adapter: every action must come from the adapter that shall drive."""

from __future__ import annotations

from typing import ClassVar, Literal

from vlaforget_ros.safety.rules.base import Reading, RuleSettings
from vlaforget_ros.safety.samples import ActionSample


class AdapterSettings(RuleSettings):
    """Which adapter is expected is told by whoever decides it (a canary), not by the rules file."""

    type: Literal["adapter"] = "adapter"


class Adapter:
    """Broken by an action of another adapter than expected; silent without an expectation."""

    judges: ClassVar[tuple[type, ...]] = (ActionSample,)

    def __init__(self, settings: AdapterSettings) -> None:
        self.settings = settings
        self._expected: str | None = None

    def expect(self, digest: str | None) -> None:
        """The adapter's digest, "" for the base model, None for no expectation."""
        self._expected = digest

    def check(self, sample: ActionSample) -> Reading | None:
        """1 for another adapter, 0 for the expected one."""
        if self._expected is None:
            return None
        other = sample.adapter_digest != self._expected
        text = f"action {sample.step} by {_short(sample.adapter_digest)}, expected {_short(self._expected)}"
        return Reading(other, float(other), 0.0, "", text)

    def restart(self) -> None:
        """The expectation stays: it is no history."""


def _short(digest: str) -> str:
    return digest[:12] or "base"
