"""From readings to events: a rule counts when broken long enough, and again only after kept long enough."""

from __future__ import annotations


class Debounce:
    """Separate trigger and release delay of one rule.

    Args:
        trigger_s: must be broken this long to become active [s]; 0 = at once.
        release_s: must be kept this long to become inactive [s]; 0 = at once.
    """

    def __init__(self, trigger_s: float, release_s: float) -> None:
        self._trigger_s = trigger_s
        self._release_s = release_s
        self.active = False
        self.broken = False
        self._since: float | None = None

    def update(self, broken: bool, stamp_s: float) -> bool:
        """Take one reading at ``stamp_s`` [s]; returns whether the rule became active with it."""
        self.broken = broken
        if broken == self.active:
            self._since = None
            return False
        if self._since is None or stamp_s < self._since:
            self._since = stamp_s
        delay = self._trigger_s if broken else self._release_s
        # A microsecond of slack: that is how fine a stamp of today is in floating point seconds.
        if stamp_s - self._since + 1e-6 < delay:
            return False
        self.active = broken
        self._since = None
        return broken

    def pause(self) -> None:
        """Delays that run begin anew: the stamps before and after cannot be compared."""
        self._since = None

    def restart(self) -> None:
        """Inactive, without history."""
        self.active = False
        self.broken = False
        self._since = None
