"""Where inferences of several arms wait for the model, so that those that wait at once share a forward pass."""

from __future__ import annotations

import threading

from vlaforget_ros.policy.arm import Arm, Ask


class Desk:
    """Asks in the order they came. Any thread may call it.

    Args:
        wait_s: how long an ask waits for those of the other arms whose rollouts run [s]. Arms that ask in turns would
            otherwise never share a pass: each would find the model busy with the other.
    """

    def __init__(self, wait_s: float = 0.0) -> None:
        self._wait_s = wait_s
        self._condition = threading.Condition()
        self._waiting: list[Ask] = []
        self._running: set[Arm] = set()

    def hand_in(self, ask: Ask) -> None:
        """Put an ask on the desk; returns when every running arm has asked, or after ``wait_s``."""
        with self._condition:
            self._waiting.append(ask)
            self._running.add(ask.arm)
            self._condition.notify_all()
            if self._wait_s and len(self._running) > 1:
                self._condition.wait_for(lambda: self._complete(ask), self._wait_s)

    def take(self, ask: Ask) -> list[Ask]:
        """An ask, and of each other arm the first one that waits: they can be answered at once."""
        with self._condition:
            chosen = {ask.arm: ask}
            for other in self._waiting:
                chosen.setdefault(other.arm, other)
            self._remove(*chosen.values())
            return list(chosen.values())

    def withdraw(self, ask: Ask) -> None:
        """Nobody waits for this ask any more."""
        with self._condition:
            self._remove(ask)

    def next_step(self, arm: Arm) -> int | None:
        """Control tick of the first ask of an arm that waits."""
        with self._condition:
            return next((ask.step for ask in self._waiting if ask.arm is arm), None)

    def ended(self, arm: Arm) -> None:
        """An arm's rollout has ended: the others need not wait for it."""
        with self._condition:
            self._running.discard(arm)
            self._condition.notify_all()

    def _complete(self, ask: Ask) -> bool:
        return ask not in self._waiting or self._running <= {one.arm for one in self._waiting}

    def _remove(self, *asks: Ask) -> None:
        self._waiting = [one for one in self._waiting if one not in asks]
        self._condition.notify_all()
