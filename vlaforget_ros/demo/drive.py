"""Runs a plan's episodes on the live graph and keeps what the topics said while doing so."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlaforget_ros.cell.rollouts import RolloutJob
from vlaforget_ros.errors import CellError, ErrorCode
from vlaforget_ros.nodes.answers import SwapInfo
from vlaforget_ros.nodes.client import RobotClient


@dataclass(frozen=True)
class Driven:
    """One episode as it was driven.

    Args:
        job: situation and seed.
        rollout_id: id in the bag.
        success: what the outcome said.
        steps: control ticks.
    """

    job: RolloutJob
    rollout_id: str
    success: bool
    steps: int


@dataclass(frozen=True)
class MidSwap:
    """A swap while the arm was moving.

    Args:
        info: what policy/swap_adapter answered.
        digests: adapter of every action of the rollout, in order.
    """

    info: SwapInfo
    digests: tuple[str, ...]

    @property
    def switches(self) -> int:
        """How often the adapter changed within the rollout; 1 for a clean swap."""
        return sum(a != b for a, b in zip(self.digests, self.digests[1:], strict=False))


@dataclass
class Drive:
    """Drives one arm.

    Args:
        client: the graph.
        bags: folder into which the recorder writes.
    """

    client: RobotClient
    bags: Path
    _known: set[Path] = field(default_factory=set)

    def run(
        self, jobs: Sequence[RolloutJob], progress: Callable[[int, int], None]
    ) -> tuple[list[Driven], Path]:
        """Run ``jobs`` while recording; returns what was driven and the finished bag."""
        self.client.change_state("recorder_node", "activate")
        driven = []
        try:
            for job in jobs:
                driven.append(self.episode(job))
                progress(len(driven), len(jobs))
        finally:
            self.client.change_state("recorder_node", "deactivate")
        return driven, self._new_bag()

    def episode(self, job: RolloutJob, on_step: Callable[[Any], None] | None = None) -> Driven:
        """One episode. Raises CellError 601 when the rollout was aborted."""
        instruction = self.client.reset_cell(job.situation, job.seed)
        result = self.client.execute(instruction, seed=job.seed, on_step=on_step)
        if result.error_code:
            raise CellError(
                ErrorCode.CELL_FAULT,
                f"{job.situation} with seed {job.seed} was aborted",
                value=result.message,
                remedy="read logs/policy_node.log and logs/cell_node.log of the run folder",
            )
        return Driven(job, result.rollout_id, result.success, result.steps)

    def swap_while_moving(
        self, adapter: str, job: RolloutJob, at_step: int = 5
    ) -> tuple[MidSwap, Driven, Path]:
        """Swap ``adapter`` in after ``at_step`` actions of a running, recorded episode."""
        digests: list[str] = []
        reached = threading.Event()

        def on_step(step: Any) -> None:
            digests.append(str(step.adapter_digest))
            if len(digests) >= at_step:
                reached.set()

        self.client.change_state("recorder_node", "activate")
        # A client waits for one answer at a time, so the swap has one of its own.
        with RobotClient() as second, ThreadPoolExecutor(1) as arm:
            second.prepare_swap()
            moving = arm.submit(self.episode, job, on_step)
            reached.wait(timeout=30.0)
            info = second.swap(adapter)
            driven = moving.result()
        self.client.change_state("recorder_node", "deactivate")
        return MidSwap(info, tuple(digests)), driven, self._new_bag()

    def _new_bag(self) -> Path:
        end = time.monotonic() + 10.0
        while True:
            found = {path.parent for path in self.bags.glob("*/metadata.yaml")} - self._known
            if found:
                self._known |= found
                return max(found)
            if time.monotonic() > end:
                raise CellError(
                    ErrorCode.CELL_FAULT,
                    "the recorder closed no bag",
                    value=str(self.bags),
                    remedy="read logs/recorder_node.log of the run folder",
                )
            time.sleep(0.05)
