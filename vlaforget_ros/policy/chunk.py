"""The rest of a chunk of actions that waits to be executed."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

import numpy as np

from vlaforget_ros.policy.policy import Prediction


@dataclass(frozen=True)
class Waiting:
    """One action that was decided earlier.

    Args:
        prediction: it.
        digest: adapter that decided it.
    """

    prediction: Prediction
    digest: str


class Chunk:
    """Hands out the actions of a chunk one control tick after the other; its owner is the inference thread.

    Args:
        steps: how many actions of a chunk are executed; 0: all.
        finish: whether a chunk is executed to its end although another adapter is active by now.
    """

    def __init__(self, steps: int = 0, finish: bool = False) -> None:
        self._steps, self._finish = steps, finish
        self._actions: deque[np.ndarray] = deque()
        self._from = Prediction(np.zeros(0, np.float32), ())
        self._instruction, self._next, self._digest = "", -1, ""

    def fill(
        self, actions: np.ndarray, decided: Prediction, instruction: str, step: int, digest: str
    ) -> Prediction:
        """Keep all actions but the first, which is returned.

        Args:
            actions: (chunk, A).
            decided: the prediction they are of.
            instruction: it was made for.
            step: control tick of the first.
            digest: adapter that decided them.
        """
        kept = actions[: self._steps] if self._steps else actions
        self._actions = deque(kept[1:])
        self._from, self._instruction, self._next, self._digest = decided, instruction, step + 1, digest
        return replace(decided, action=kept[0])

    def take(self, instruction: str, step: int, digest: str) -> Waiting | None:
        """The action for a tick, if one was decided for it; otherwise nothing waits any more."""
        fits = instruction == self._instruction and step == self._next
        if not self._actions or not fits or (digest != self._digest and not self._finish):
            self.drop()
            return None
        self._next += 1
        return Waiting(replace(self._from, action=self._actions.popleft()), self._digest)

    def drop(self) -> None:
        """Forget what waits."""
        self._actions.clear()
