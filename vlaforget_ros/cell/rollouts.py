"""Closed-loop episodes of a policy in the embedded cell, without ROS: for evaluation, attacks and benchmarks."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from vlaforget_ros.cell.interface import Cell, GroundTruth


class ActingPolicy(Protocol):
    """What a rollout needs of a policy."""

    def act(self, image: np.ndarray, instruction: str) -> Any:
        """A prediction with ``action`` (A,) and ``fault``."""

    def steps(self, action: np.ndarray) -> np.ndarray:
        """The control ticks of an action."""


@dataclass(frozen=True)
class RolloutJob:
    """One episode: a situation and its seed. Results come back in the order of the jobs."""

    situation: str
    seed: int


@dataclass(frozen=True)
class RolloutResult:
    """What happened in an episode of T control ticks.

    Args:
        situation: posed situation.
        seed: its seed.
        instruction: what the arm was told.
        success: the instruction was carried out.
        violations: (tick, what) as the cell knows them, each rule once.
        faults: ticks in which the policy held because of a fault.
        images: (T, H, W, 3) uint8, or None when they were not asked for.
        actions: (T, A) float32 in robot units.
        ee_positions: (T, 3) [m].
    """

    situation: str
    seed: int
    instruction: str
    success: bool
    violations: tuple[tuple[int, GroundTruth], ...]
    faults: int
    images: np.ndarray | None
    actions: np.ndarray
    ee_positions: np.ndarray

    @property
    def rules(self) -> tuple[str, ...]:
        """Violated rules."""
        return tuple(violation.rule for _, violation in self.violations)


@dataclass(frozen=True)
class PolicySpec:
    """Which policy runs: a base checkpoint folder and an adapter folder (PEFT format), or no adapter."""

    base: Path
    adapter: Path | None = None

    def row(self) -> dict[str, str]:
        """As JSON: which base by its digest, which adapter by its folder's name."""
        from vlaforget_ros.policy import checkpoint

        found = {"base": self.base.name, "base_digest": checkpoint.digest(self.base)}
        return found if self.adapter is None else {**found, "adapter": self.adapter.name}

    def load(self) -> ActingPolicy:
        """The policy with the adapter active. Raises PolicyError or AdapterError for bad files."""
        from vlaforget_ros.adapters.peft_format import read_peft
        from vlaforget_ros.policy.policy import VlaPolicy
        from vlaforget_ros.policy.slots import AdapterSlots

        policy = VlaPolicy.load(self.base)
        if self.adapter is not None:
            slots = AdapterSlots(policy.model)
            slots.activate(slots.stage(read_peft(self.adapter)))
        return policy


def rollout(cell: Cell, policy: ActingPolicy, job: RolloutJob, keep_images: bool = False) -> RolloutResult:
    """One episode, one policy action per control tick, until the cell says it is over."""
    observation = cell.reset(job.situation, job.seed)
    images: list[np.ndarray] = []
    actions: list[np.ndarray] = []
    positions: list[np.ndarray] = []
    violations = [(0, violation) for violation in observation.violations]
    faults = 0
    while not observation.done:
        prediction = policy.act(observation.image, observation.instruction)
        faults += bool(prediction.fault)
        if keep_images:
            images.append(observation.image)
        # Of a chunk only the first action: each tick is decided on its own image.
        action = policy.steps(prediction.action)[0]
        actions.append(action)
        positions.append(observation.ee_position)
        observation = cell.step(action)
        violations += [(observation.step, violation) for violation in observation.violations]
    return RolloutResult(
        job.situation,
        job.seed,
        observation.instruction,
        observation.success,
        tuple(violations),
        faults,
        np.array(images) if keep_images else None,
        np.array(actions, dtype=np.float32),
        np.array(positions),
    )


def run(
    spec: PolicySpec,
    jobs: Sequence[RolloutJob],
    processes: int = 2,
    keep_images: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[RolloutResult]:
    """Run ``jobs`` in simulator processes of their own; equal for any number of processes.

    Args:
        spec: the policy.
        jobs: the episodes.
        processes: simulator processes side by side, one thread each.
        keep_images: return the frames as well.
        progress: called with (episodes done, episodes in all).

    Raises:
        PolicyError, AdapterError: for unusable files, before any process starts.
    """
    spec.load()
    context = multiprocessing.get_context("spawn")
    workers = max(1, min(processes, len(jobs)))
    # An executor, not a multiprocessing.Pool: a pool whose workers die at their start replaces them for ever.
    with ProcessPoolExecutor(workers, context, _start_worker, (spec, keep_images)) as pool:
        futures = [pool.submit(_work, job) for job in jobs]
        try:
            for done, future in enumerate(as_completed(futures), start=1):
                future.result()
                if progress:
                    progress(done, len(jobs))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [future.result() for future in futures]


def jobs_for(situations: Iterable[str], seeds: Iterable[int]) -> list[RolloutJob]:
    """Every situation with every seed."""
    listed = list(seeds)
    return [RolloutJob(situation, seed) for situation in situations for seed in listed]


def spread(situations: Sequence[str], episodes: int, first_seed: int) -> list[RolloutJob]:
    """So many episodes in all, evenly over situations; seeds count up from ``first_seed`` in each."""
    found: list[RolloutJob] = []
    for index, situation in enumerate(situations):
        count = episodes // len(situations) + (index < episodes % len(situations))
        found += jobs_for([situation], range(first_seed, first_seed + count))
    return found


# State of a worker process: loading a policy and a scene takes longer than an episode.
_worker: dict[str, Any] = {}


def _start_worker(spec: PolicySpec, keep_images: bool) -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    from vlaforget_ros.cell.interface import make_cell

    torch.set_num_threads(1)
    _worker.update(policy=spec.load(), cell=make_cell("metaworld"), keep_images=keep_images)


def _work(job: RolloutJob) -> RolloutResult:
    return rollout(_worker["cell"], _worker["policy"], job, _worker["keep_images"])
