"""What may stop or slow an edit from outside: a cancel, its budgets of memory and time, its share of the time."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import torch

from vlaforget_ros.errors import ErrorCode, UnlearningError
from vlaforget_ros.policy.memory import is_out_of_memory

_LONGEST_NAP_S = 0.2


def resident_mb() -> float:
    """Memory of this process now [MB]: resident set without weights of another process, plus what it has on the GPU."""
    gpu = torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
    return float(psutil.Process().memory_info().rss - _borrowed() + gpu) / 1e6


def _borrowed() -> int:
    """Bytes of the resident set that are shared memory; what was mapped from files is as much this process's own."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("RssShmem:"))


def peak_mb() -> float:
    """Largest memory of this process so far [MB]: resident set, plus the GPU's peak."""
    unit = 1.0 if sys.platform == "darwin" else 1024.0
    gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit + gpu) / 1e6


@dataclass
class Guard:
    """Asked between steps and chunks.

    Args:
        seconds: time budget of the edit.
        memory_mb: memory budget.
        cancelled: whether somebody asked to stop.
        clock: seconds, monotonic.
        memory: MB in use now.
        share: of the time that the edit may work, 0 to 1; the rest it leaves the device to the policy.
        nap: waits so many seconds.
        lost: whether the weights that the edit works on are not there any more.
    """

    seconds: float
    memory_mb: float
    cancelled: Callable[[], bool] = lambda: False
    clock: Callable[[], float] = time.monotonic
    memory: Callable[[], float] = resident_mb
    share: float = 1.0
    nap: Callable[[float], None] = time.sleep
    lost: Callable[[], bool] = lambda: False
    _began: float = field(init=False)
    _woke: float = field(init=False)

    def __post_init__(self) -> None:
        self._began = self._woke = self.clock()

    @property
    def elapsed(self) -> float:
        """Seconds since the edit began."""
        return self.clock() - self._began

    def out_of_time(self) -> bool:
        """Whether training must stop; what was trained so far is evaluated and judged as ever."""
        return self.elapsed >= self.seconds

    def check(self) -> None:
        """Rests as its share demands.

        Raises:
            UnlearningError: 305 when cancelled, 306 when over the memory budget, 308 as :meth:`require_weights`.
        """
        self._rest()
        self.require_weights()
        if self.cancelled():
            raise UnlearningError(
                ErrorCode.UNLEARNING_CANCELLED,
                "the edit was cancelled",
                remedy="finished stages are kept: run it again with resume to go on",
            )
        used = self.memory()
        if used > self.memory_mb:
            raise out_of_memory(f"{used:.0f} MB in use", self.memory_mb)

    def require_weights(self) -> None:
        """Asked before anything is stored that was computed. Raises UnlearningError 308 when the weights are lost."""
        if self.lost():
            raise UnlearningError(
                ErrorCode.UNLEARNING_KILLED,
                "the policy whose weights the edit shared is gone, and its memory with it",
                remedy="finished stages are kept: run it again with resume; an edit with share_weights: false needs no "
                "policy beside it",
            )

    def _rest(self) -> None:
        """In short naps, so that a cancel is heard."""
        worked = self.clock() - self._woke
        until = self.clock() + worked * (1.0 / self.share - 1.0)
        while self.share < 1.0 and self.clock() < until and not self.cancelled():
            self.nap(min(_LONGEST_NAP_S, until - self.clock()))
        self._woke = self.clock()


def out_of_memory(what: str, limit: float | None = None) -> UnlearningError:
    """Error 306."""
    return UnlearningError(
        ErrorCode.UNLEARNING_OUT_OF_MEMORY,
        "the edit needs more memory than it may have",
        value=what,
        limit=None if limit is None else f"{limit:.0f} MB",
        remedy="lower batch sizes, cache_mb or the number of frames, or raise budget.memory_mb",
    )


@contextmanager
def coded_memory_errors() -> Iterator[None]:
    """Turn the many ways of running out of memory into UnlearningError 306."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise out_of_memory(str(error).split("\n")[0] or "allocation failed") from error
