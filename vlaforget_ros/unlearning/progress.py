"""How far an edit is, as it is shown to people and sent as action feedback."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vlaforget_ros.unlearning.guard import Guard, peak_mb
from vlaforget_ros.unlearning.training import StepLog


@dataclass(frozen=True)
class Progress:
    """One step.

    Args:
        stage: visual, projector or language, or what the method calls it.
        round: of the stage, from 1.
        step: steps done in all stages.
        total_steps: steps in all if every round is needed (fewer when the forget gate holds early).
        losses: weighted terms.
        eta_s: seconds until ``total_steps`` at the present speed.
        peak_mb: largest memory so far [MB].
    """

    stage: str
    round: int
    step: int
    total_steps: int
    losses: dict[str, float]
    eta_s: float
    peak_mb: float


class ProgressMeter:
    """Counts steps over all stages.

    Args:
        plan: (stage, steps of a round, most rounds) of each stage.
        guard: gives the time.
        listener: told about each step.
    """

    def __init__(
        self, plan: Sequence[tuple[str, int, int]], guard: Guard, listener: Callable[[Progress], None]
    ) -> None:
        self._plan, self._guard, self._listener = plan, guard, listener
        self._done = 0
        self._began = guard.elapsed

    def step(self, stage: str, number: int, log: StepLog) -> None:
        """One optimiser step was made."""
        self._done += 1
        position, total = self._position(stage, number, log.step)
        pace = (self._guard.elapsed - self._began) / self._done
        eta = min((total - position) * pace, max(0.0, self._guard.seconds - self._guard.elapsed))
        losses = {name: round(value, 5) for name, value in log.losses.items()}
        self._listener(Progress(stage, number, position, total, losses, round(eta, 1), round(peak_mb(), 1)))

    def _position(self, stage: str, number: int, step: int) -> tuple[int, int]:
        position = total = 0
        for name, steps, rounds in self._plan:
            if name == stage:
                position = total + (number - 1) * steps + step
            total += steps * rounds
        return position, total
