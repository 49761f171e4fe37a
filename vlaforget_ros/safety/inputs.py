"""Which inputs are alive: the newest stamp of each, when it arrived, and why the last one was of no use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from vlaforget_ros.safety.samples import ActionSample, PoseSample, Sample

JUMP_S = 1.0
"""Stamps that go back by more than this, or forward by more than this beyond the steady clock, are a jump of the
clock [s]; stamps that go back by less are messages out of order."""


class Use(Enum):
    """What a sample is good for."""

    NONE = "none"
    """It is damaged, a repetition, or older than one before."""
    NEW = "new"
    """The next one in order."""
    JUMPED = "jumped"
    """The clock of the data was set: a new history begins here."""


@dataclass
class _Input:
    arrived_s: float
    stamp_s: float | None = None
    stamp_arrived_s: float = 0.0
    problem: str = ""
    step: tuple[str, int] = ("", -1)


class Inputs:
    """Sorts samples by use: actions are in order of their steps, everything else of its stamps.

    A sample without use, and the first after a jump, keep no input alive.

    So a driver that repeats one message, sends NaN, or mixes two clocks goes stale like one that is silent.

    Args:
        names: inputs that are watched.
        frame: of all positions; a pose without a frame is taken for one in it, since many drivers leave it empty.
        clock: steady clock [s].
    """

    def __init__(self, names: Iterable[str], frame: str, clock: Callable[[], float]) -> None:
        self._frame = frame
        self._clock = clock
        now = clock()
        self._inputs = {name: _Input(now) for name in names}

    def take(self, sample: Sample) -> Use:
        """Sort one sample."""
        state = self._inputs.setdefault(sample.input, _Input(self._clock()))
        state.problem = sample.problem or self._misplaced(sample)
        if state.problem:
            return Use.NONE
        now = self._clock()
        use = self._in_order(state, sample, now)
        if isinstance(sample, ActionSample) and use is not Use.NONE:
            state.step = (sample.rollout_id, sample.step)
        if use is not Use.NONE:
            state.stamp_s, state.stamp_arrived_s = sample.stamp_s, now
        if use is Use.NEW:
            state.arrived_s = now
        return use

    def restart(self) -> None:
        """A rollout begins: every input gets its time anew, and any stamp is in order."""
        now = self._clock()
        for state in self._inputs.values():
            state.arrived_s, state.stamp_s, state.problem = now, None, ""

    def ages(self) -> Mapping[str, float]:
        """Input to the time since its last usable sample, or since the start [s]."""
        now = self._clock()
        return {name: now - state.arrived_s for name, state in self._inputs.items()}

    def oldest(self, names: Iterable[str]) -> tuple[str, float, str]:
        """Of some inputs the one silent for longest: its name, its age [s] and why; ("", 0, "") of none."""
        ages = self.ages()
        name = max(names, key=lambda n: ages[n], default="")
        if not name:
            return "", 0.0, ""
        return name, ages[name], self._inputs[name].problem or "none arrived"

    def _in_order(self, state: _Input, sample: Sample, now: float) -> Use:
        if state.stamp_s is None:
            return Use.NEW
        step = sample.stamp_s - state.stamp_s
        if step < -JUMP_S or step - (now - state.stamp_arrived_s) > JUMP_S:
            state.problem = f"its clock jumped by {step:.1f} s"
            return Use.JUMPED
        # In simulated time several actions may have one stamp; each must be judged.
        if step <= 0.0 and not (isinstance(sample, ActionSample) and _further(sample, state.step)):
            state.problem = "its stamps do not advance"
            return Use.NONE
        return Use.NEW

    def _misplaced(self, sample: Sample) -> str:
        if isinstance(sample, PoseSample) and sample.frame not in ("", self._frame):
            return f"the pose is in frame {sample.frame!r}, the rules are in {self._frame!r}"
        return ""


def _further(sample: ActionSample, last: tuple[str, int]) -> bool:
    return sample.rollout_id != last[0] or sample.step > last[1]
