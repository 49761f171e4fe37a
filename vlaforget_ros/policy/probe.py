"""An adapter is tried on fixed observations before it may drive the arm, beside the policy that serves.

The trial runs on a twin: modules of its own on the same weights, so that what serves is neither touched nor waited for.
Checked is what only running shows: an inference that fails, an action that is not finite, words where the active
adapter gives an action, and an adapter that makes the policy much slower.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from vlaforget_ros.errors import AdapterError, ErrorCode, VlaForgetError
from vlaforget_ros.policy.memory import free_cached_memory, is_out_of_memory
from vlaforget_ros.policy.merged import MergedSlots
from vlaforget_ros.policy.policy import Observation, Prediction, VlaPolicy
from vlaforget_ros.policy.slots import AdapterSlots, StagedAdapter

_PATIENCE = 8
"""Times the rounds that an adapter which seems slow is tried before it is refused."""


def fixed_observations(policy: VlaPolicy, instructions: Sequence[str]) -> list[Observation]:
    """A grey image and one of noise for each instruction, the same ones each time.

    Args:
        policy: gives sizes, cameras and state.
        instructions: that the policy knows.

    Raises:
        PolicyError: 206 for an instruction that the policy cannot read.
    """
    config, found = policy.config, []
    shape = config.view_shape
    noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    for instruction in instructions:
        policy.check_instruction(instruction)
        for image in (np.full(shape, 127, dtype=np.uint8), noise):
            found.append(Observation(image, instruction, config.zero_state))
    return found


class Probe:
    """Tries adapters of one policy. Make it before adapters are attached to the policy.

    Args:
        policy: that will serve.
        instructions: for the fixed observations; without any only the last observation that was served is tried.
        merge: whether what serves merges adapters.
        rounds: how often each observation is asked for, in turns with the active adapter; an adapter that seems slow
            gets up to eight times as many.
        slowdown: how many times the active adapter's inference time is too long.
        clock: steady clock [s].

    Raises:
        PolicyError: 206 for an instruction that the policy cannot read.

    One thread at a time.
    """

    def __init__(
        self,
        policy: VlaPolicy,
        instructions: Sequence[str] = (),
        *,
        merge: bool = False,
        rounds: int = 3,
        slowdown: float = 3.0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._twin = policy.twin(recorded=False)
        self._slots = MergedSlots(self._twin.model) if merge else AdapterSlots(self._twin.model)
        self._fixed = fixed_observations(policy, instructions)
        self._rounds, self._slowdown, self._clock = rounds, slowdown, clock

    def check(
        self, candidate: StagedAdapter, active: StagedAdapter | None, served: Observation | None = None
    ) -> float:
        """Try a staged adapter.

        Args:
            candidate: that is to become active.
            active: that serves now; None: the base model.
            served: the last observation that was served, tried as well.

        Returns:
            its inference time over the active one's, the fastest of all rounds; 1 where there was nothing to try.

        Raises:
            AdapterError: 115 naming what went wrong; nothing that serves has changed.
        """
        observations = [*self._fixed, *([] if served is None else [served])]
        fastest = {True: float("inf"), False: float("inf")}
        try:
            for number in range(self._rounds * _PATIENCE if observations else 0):
                # An adapter that seems slow gets more rounds: on a busy machine it may have had bad luck in a few.
                if number >= self._rounds and fastest[True] <= self._slowdown * fastest[False]:
                    break
                for observation in observations:
                    before, seconds = self._timed(active, observation)
                    fastest[False] = min(fastest[False], seconds)
                    after, seconds = self._candidate(candidate, observation)
                    fastest[True] = min(fastest[True], seconds)
                    _compare(candidate, before, after, observation)
        finally:
            # The twin keeps no adapter alive that the policy has dropped.
            self._slots.show(None)
        ratio = fastest[True] / fastest[False] if observations and self._rounds else 1.0
        if ratio > self._slowdown:
            raise _refused(
                candidate,
                "inference with it is too slow",
                f"{ratio:.1f} times as long as with the active adapter",
                f"{self._slowdown:g} times",
            )
        return ratio

    def _candidate(self, candidate: StagedAdapter, observation: Observation) -> tuple[Prediction, float]:
        try:
            return self._timed(candidate, observation)
        except (VlaForgetError, RuntimeError, ValueError) as error:
            if is_out_of_memory(error):
                free_cached_memory()
            raise _refused(candidate, "an inference with it fails", f"{error}", "one that ends") from error

    def _timed(self, staged: StagedAdapter | None, observation: Observation) -> tuple[Prediction, float]:
        self._slots.show(staged)
        began = self._clock()
        found = self._twin.act(observation.image, observation.instruction, observation.state)
        return found, self._clock() - began


def _compare(
    candidate: StagedAdapter, before: Prediction, after: Prediction, observation: Observation
) -> None:
    what = f"told {observation.instruction!r}"
    if not np.all(np.isfinite(after.action)):
        raise _refused(candidate, "an action with it is not finite", f"{after.action} {what}", "finite")
    if after.fault and not before.fault:
        name = ErrorCode(after.fault).name
        raise _refused(
            candidate, "it gives no action where the active adapter does", f"{name} {what}", "an action"
        )


def _refused(candidate: StagedAdapter, why: str, value: str, limit: str) -> AdapterError:
    return AdapterError(
        ErrorCode.ADAPTER_PROBE_FAILED,
        f"adapter {candidate.digest[:12]} was tried before the swap: {why}",
        value=value,
        limit=limit,
        remedy="look at its report, or make it again; the active adapter stays",
    )
