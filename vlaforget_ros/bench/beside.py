"""What an edit that runs on the same machine does to the policy's latency.

The policy answers an image every control tick, first alone, then while a real edit trains in its child process as the
unlearning node starts it: as it is, and with smaller shares of the time. In turns, so that a change of the machine's
speed meets all of them.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Condition, Thread
from typing import Any

import numpy as np
import psutil
import torch
import yaml

from vlaforget_ros import figures
from vlaforget_ros.episodes import EpisodeWriter
from vlaforget_ros.errors import UnlearningError
from vlaforget_ros.figures import Figure
from vlaforget_ros.policy.lender import Lender, is_copied
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.unlearning.process import CHILD, EditProcess, Progress, edit_command

INSTRUCTION = "open the faucet"
_FRAMES = 16
_RESAMPLES = 2000
# More than any run of the benchmark waits for.
_STEPS, _BUDGET_S, _MEMORY_MB = 100_000, 36_000, 1_000_000


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Args:
        base: checkpoint.
        device: of policy and edit.
        shares: of the time that the edit may work; 1 is always measured.
        ticks: inferences in each turn.
        turns: how often each condition is measured.
        tick_s: control period [s].
        threads: of the edit.
        seed: of images, batches and resampling.
        share_weights: let the edit use the policy's weights, where it would else have a copy.
    """

    base: Path
    device: str = "cpu"
    shares: tuple[float, ...] = (1.0, 0.5)
    ticks: int = 100
    turns: int = 3
    tick_s: float = 0.1
    threads: int = 1
    seed: int = 0
    share_weights: bool = True


def measure(settings: Settings, progress: Callable[[int, int], None]) -> dict[str, Any]:
    """Latencies alone and beside an edit.

    Args:
        settings: what is measured.
        progress: called with (turns done, all).
    """
    policy = VlaPolicy.load(settings.base, settings.device)
    with ExitStack() as lending:
        if settings.share_weights and is_copied(settings.base, settings.device):
            lending.enter_context(Lender(policy))
        return _measured(policy, settings, progress)


def _measured(policy: VlaPolicy, settings: Settings, progress: Callable[[int, int], None]) -> dict[str, Any]:
    conditions: list[float] = [0.0, *settings.shares]
    seconds: dict[float, list[np.ndarray]] = {share: [] for share in conditions}
    steps: dict[float, int] = dict.fromkeys(conditions, 0)
    memory: list[Memory] = []
    with tempfile.TemporaryDirectory() as directory:
        request = _request(Path(directory), policy, settings)
        for turn in range(settings.turns):
            for place, share in enumerate(conditions):
                with ExitStack() as stack:
                    made = Path(directory) / f"edit-{turn}-{place}"
                    edit = stack.enter_context(_editing(request, made, share, settings)) if share else None
                    begun = edit.steps if edit else 0
                    seconds[share].append(_ticks(policy, settings, turn))
                    memory += [edit.memory()] if edit else []
                    # The step that was under way at the end counts: on a slow machine there is no other.
                    steps[share] += edit.wait_until_it_trains(begun) - begun if edit else 0
                progress(turn * len(conditions) + place + 1, settings.turns * len(conditions))
    found: list[Figure] = []
    alone = np.concatenate(seconds[0.0])
    for share, parts in seconds.items():
        name = "alone" if not share else f"beside_{share:g}".replace(".", "_")
        found += _figures(name, np.concatenate(parts), alone if share else None, settings.seed)
        if share:
            found.append(Figure(f"edit_steps_{name}", float(steps[share]), "count", settings.turns))
    found += _memory_figures(memory)
    return figures.document(
        "beside",
        found,
        [settings.seed],
        model=policy.config.name,
        device=settings.device,
        tick_s=settings.tick_s,
        policy_threads=torch.get_num_threads(),
        edit_threads=settings.threads,
    )


def _figures(name: str, seconds: np.ndarray, alone: np.ndarray | None, seed: int) -> list[Figure]:
    found = []
    for quantile in (50, 99):
        value = float(np.percentile(seconds, quantile))
        found.append(Figure(f"latency_ms_p{quantile}_{name}", value * 1e3, "ms", len(seconds)))
        if alone is None:
            continue
        low, high = _interval(seconds, alone, quantile, seed)
        ratio = value / float(np.percentile(alone, quantile))
        found.append(Figure(f"p{quantile}_{name}_ratio", ratio, "ratio", len(seconds), low, high))
    return found


def _interval(beside: np.ndarray, alone: np.ndarray, quantile: int, seed: int) -> tuple[float, float]:
    """95 % bootstrap interval of the ratio of two percentiles."""
    rng = np.random.default_rng(seed)
    drawn = [
        np.percentile(rng.choice(values, (_RESAMPLES, len(values))), quantile, axis=1)
        for values in (beside, alone)
    ]
    low, high = np.percentile(drawn[0] / drawn[1], [2.5, 97.5])
    return float(low), float(high)


def _ticks(policy: VlaPolicy, settings: Settings, turn: int) -> np.ndarray:
    """(ticks,) seconds of each inference."""
    rng = np.random.default_rng((settings.seed, turn))
    shape = policy.config.view_shape
    state = policy.config.zero_state
    policy.act(rng.integers(0, 256, shape, dtype=np.uint8), INSTRUCTION, state)
    seconds = []
    due = time.perf_counter()
    for _ in range(settings.ticks):
        image = rng.integers(0, 256, shape, dtype=np.uint8)
        due = max(due + settings.tick_s, time.perf_counter())
        time.sleep(max(0.0, due - time.perf_counter()))
        began = time.perf_counter()
        policy.act(image, INSTRUCTION, state)
        seconds.append(time.perf_counter() - began)
    return np.array(seconds)


@dataclass(frozen=True)
class Memory:
    """What two processes hold while an edit trains [MB]; what both hold is private to neither.

    Args:
        shared: the edit works on the policy's weights.
        child: private memory of the edit's process on the host.
        policy: the same of this one.
        device: in use on the GPU by all processes; 0 on the CPU.
    """

    shared: bool
    child: float
    policy: float
    device: float


def _private_mb(pid: int) -> float:
    return float(psutil.Process(pid).memory_full_info().uss) / 1e6


def _memory_figures(memory: Sequence[Memory]) -> list[Figure]:
    count = len(memory)
    return [
        Figure("shared_weights", float(np.mean([one.shared for one in memory])), "ratio", count),
        Figure("child_private_mb", max(one.child for one in memory), "MB", count),
        Figure("policy_private_mb", max(one.policy for one in memory), "MB", count),
        *([Figure("device_mb", max(one.device for one in memory), "MB", count)] if memory[0].device else []),
    ]


class _Edit:
    """A running edit, and how many steps it has made."""

    def __init__(self, process: EditProcess) -> None:
        self.steps, self.failed = 0, ""
        self._process, self._more = process, Condition()
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_until_it_trains(self, begun: int = 0) -> int:
        """Steps, once there are more than ``begun``."""
        with self._more:
            self._more.wait_for(lambda: self.failed or self.steps > begun, 600.0)
        if self.failed or self.steps <= begun:
            raise RuntimeError(f"the edit beside which to measure does not train: {self.failed}")
        return self.steps

    def memory(self) -> Memory:
        """Of both processes, and of the GPU."""
        weights = self._process.weights
        used = 0.0
        if torch.cuda.is_available():
            free, total = torch.cuda.mem_get_info()
            used = (total - free) / 1e6
        return Memory(
            weights is not None and weights.shared,
            _private_mb(self._process.pid),
            _private_mb(os.getpid()),
            used,
        )

    def end(self) -> None:
        self._process.cancel()
        self._reader.join(60.0)

    def _read(self) -> None:
        try:
            for event in self._process.events():
                if isinstance(event, Progress):
                    with self._more:
                        self.steps = event.step
                        self._more.notify_all()
            failed = "it ended"
        except UnlearningError as error:
            failed = str(error)
        with self._more:
            self.failed = failed
            self._more.notify_all()


@contextmanager
def _editing(request: Path, out: Path, share: float, settings: Settings) -> Iterator[_Edit]:
    out.mkdir()
    own = not settings.share_weights
    command = edit_command(CHILD, request, out, out / "store", resume=False, share=share, own_weights=own)
    edit = _Edit(EditProcess(command, out / "child.log"))
    try:
        edit.wait_until_it_trains()
        yield edit
    finally:
        edit.end()


def _request(folder: Path, policy: VlaPolicy, settings: Settings) -> Path:
    """A bag of random images and a request that trains for longer than anybody measures."""
    rng = np.random.default_rng(settings.seed)
    dims = len(policy.normalisation.q01)
    span = policy.codec.span[:dims]
    state = policy.config.zero_state
    cameras = [f"camera_{i}" for i in range(1, policy.config.cameras)]
    with EpisodeWriter(folder / "bag", cameras=cameras, state="" if state is None else "state") as writer:
        for number, kind in enumerate(["bad"] * 3 + ["good"] * 5):
            writer.begin(f"{kind}-{number}", INSTRUCTION)
            action = np.array(policy.normalisation.hold) + span * rng.uniform(-0.2, 0.2, dims)
            for _ in range(_FRAMES):
                image = rng.integers(0, 256, policy.config.view_shape, dtype=np.uint8)
                writer.frame(image, action.astype(np.float32), state=state)
            writer.end(kind == "good")
    request = {
        "name": "beside",
        "base": str(settings.base.resolve()),
        "bags": [str(folder / "bag")],
        "device": settings.device,
        "threads": settings.threads,
        "method": "grad_diff",
        "parameters": {"steps": _STEPS, "rank": 8, "batch_forget": 8, "batch_retain": 8},
        "forget": {"rollout_id": "bad-*"},
        "retain": {"rollout_id": "good-*"},
        "budget": {"seconds": _BUDGET_S, "memory_mb": _MEMORY_MB},
        **({"cameras": cameras} if cameras else {}),
        **({} if state is None else {"state": "state"}),
    }
    path = folder / "request.yaml"
    path.write_text(yaml.safe_dump(request))
    return path
