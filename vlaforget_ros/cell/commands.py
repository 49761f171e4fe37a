"""The stream of commands to an arm that does not wait for them: the newest one, and when silence means hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class CommandStream(Generic[T]):
    """Keeps the newest command until a control tick takes it. Not thread-safe.

    Args:
        hold_after_s: age of the newest command from which the arm holds [s]; 0: never.
        clock: steady clock [s].
    """

    def __init__(self, hold_after_s: float, clock: Callable[[], float]) -> None:
        self._hold_after_s, self._clock = hold_after_s, clock
        self._newest: T | None = None
        self._heard_s: float | None = None

    def heard(self, command: T) -> None:
        """A command arrived; one that no tick took is forgotten."""
        self._newest, self._heard_s = command, self._clock()

    def take(self) -> T | None:
        """The newest command, once; None where none came since the last tick."""
        newest, self._newest = self._newest, None
        return newest

    def clear(self) -> None:
        """Forget all: the arm was posed anew."""
        self._newest = self._heard_s = None

    @property
    def silent(self) -> bool:
        """Whether no command came for so long that the arm must hold; never before the first."""
        if self._heard_s is None or self._hold_after_s <= 0.0:
            return False
        return self._clock() - self._heard_s >= self._hold_after_s
