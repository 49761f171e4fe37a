"""A compiled policy as one of the paths of the serving benchmark, and what a swap or a prompt would compile anew."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch._dynamo.utils import counters

from vlaforget_ros.adapters import AdapterStore
from vlaforget_ros.policy.compiled import Compiled
from vlaforget_ros.policy.merged import slots_for
from vlaforget_ros.policy.policy import VlaPolicy


class CompiledPath:
    """Serves one adapter with compiled functions.

    Args:
        policy: of its own.
        store: has the adapters.
        digests: of the adapter that is timed, and of others to change to.
        merge: merge adapters into copies of the layers.
        instruction: of each action.
        state: of the robot, where the policy is told it.
    """

    def __init__(
        self,
        policy: VlaPolicy,
        store: AdapterStore,
        digests: Sequence[str],
        merge: bool,
        instruction: str,
        state: np.ndarray | None,
    ) -> None:
        self._policy, self._instruction, self._state = policy, instruction, state
        self._slots = slots_for(policy.model, merge, compiled=True)
        self._compiled = Compiled(policy, self._slots)
        self._staged = [self._slots.stage(store.load(digest)) for digest in digests]
        self._slots.activate(self._staged[0])

    @property
    def seconds(self) -> float:
        """Compiling took [s]."""
        return self._compiled.seconds

    def act(self, image: np.ndarray) -> tuple[int, ...]:
        """The tokens of one action."""
        return self._policy.act(image, self._instruction, self._state).tokens

    def recompilations(self, image: np.ndarray) -> int:
        """How many functions the base, each adapter and shorter prompts would compile anew if they were allowed to."""
        before = counters["stats"]["unique_graphs"]
        serving, self._compiled.stance = self._compiled.stance, "default"
        words = self._instruction.split()
        for staged in (None, *self._staged, None, self._staged[0]):
            self._slots.activate(staged)
            for length in {len(words), max(len(words) - 2, 1)}:
                self._policy.act(image, " ".join(words[:length]), self._state)
        self._compiled.stance = serving
        return int(counters["stats"]["unique_graphs"] - before)
