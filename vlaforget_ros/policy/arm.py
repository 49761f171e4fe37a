"""What serving remembers of one arm: its adapters, the rest of its chunk, its steps and its latencies."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vlaforget_ros.policy.chunk import Chunk
from vlaforget_ros.policy.policy import Observation, Prediction
from vlaforget_ros.policy.residents import Residents
from vlaforget_ros.policy.serving import Inference, Latency

_WINDOW = 200


@dataclass(eq=False)
class Ask:
    """One inference that somebody waits for.

    Args:
        arm: it is for.
        observation: what the policy is asked about.
        step: control tick within the rollout, from 0.
        answer: None until it is there.
    """

    arm: Arm
    observation: Observation
    step: int
    answer: Inference | None = None


class Arm:
    """State of one arm. All of it belongs to the thread that owns the model; only ``latency`` is for any thread.

    Args:
        residents: its adapters.
        chunk: what waits of its last decision.
        steps: (chunk, A) the control ticks of an action.
    """

    def __init__(self, residents: Residents, chunk: Chunk, steps: Callable[[np.ndarray], np.ndarray]) -> None:
        self.residents, self.chunk, self._steps = residents, chunk, steps
        self.last_step = -1
        self.seen: Observation | None = None
        self._latencies: deque[float] = deque(maxlen=_WINDOW)
        self._lock = threading.Lock()

    def left_over(self, ask: Ask) -> Inference | None:
        """The action that was decided earlier for this tick, if there is one; it took no time."""
        waiting = self.chunk.take(ask.observation.instruction, ask.step, self.residents.active)
        if waiting is None:
            return None
        self.last_step = ask.step
        return Inference(waiting.prediction, waiting.digest, 0.0, ask.step, decided=False)

    def decided(
        self, ask: Ask, digest: str, prediction: Prediction, message: str, elapsed_ms: float
    ) -> Inference:
        """Note what the model said.

        Args:
            ask: it was asked.
            digest: of the adapter that it was asked with.
            prediction: its answer, or the hold action with a fault.
            message: why it is the hold action, if it is.
            elapsed_ms: how long the model took [ms].
        """
        if not prediction.fault:
            seen = ask.observation
            prediction = self.chunk.fill(
                self._steps(prediction.action), prediction, seen.instruction, ask.step, digest
            )
            self.seen = seen
        self.last_step = ask.step
        if prediction.tokens:
            with self._lock:
                self._latencies.append(elapsed_ms)
        return Inference(prediction, digest, elapsed_ms, ask.step, message)

    def forget_step(self) -> None:
        """No rollout runs any more."""
        self.last_step = -1
        self.chunk.drop()

    def latency(self) -> Latency:
        """Percentiles over the last 200 inferences that ran to their end; zeros before the first."""
        with self._lock:
            times = list(self._latencies)
        if not times:
            return Latency(0.0, 0.0, 0)
        p50, p99 = np.percentile(times, [50, 99])
        return Latency(float(p50), float(p99), len(times))
