"""The whole story on live processes: misbehave, record, unlearn, swap, prove, roll back."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from vlaforget_ros.cell.rollouts import RolloutJob
from vlaforget_ros.demo.drive import Drive, Driven, MidSwap
from vlaforget_ros.demo.graph import demo_processes, running, wait_for_nodes
from vlaforget_ros.demo.plan import Plan, request
from vlaforget_ros.demo.screen import Screen
from vlaforget_ros.nodes.answers import EditResult, SwapInfo
from vlaforget_ros.nodes.client import RobotClient


@dataclass(frozen=True)
class Options:
    """What a person chooses.

    Args:
        plan: episodes and scenario.
        base: checkpoint folder.
        out: folder of this run, new.
        method_parameters: of the edit, where they differ from the defaults.
        seed: of the edit.
        gates: limits of the edit, where they differ from the defaults.
    """

    plan: Plan
    base: Path
    out: Path
    method_parameters: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    gates: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Story:
    """Everything that happened, before it is turned into figures.

    Args:
        before: episodes of the base policy.
        after: the same episodes with the adapter.
        mid_swap: the swap during a running episode.
        mid_swap_episode: that episode.
        bags: of before, of after, of the mid-swap episode.
        edit: what the edit answered.
        edit_seconds: from the request to the adapter in the store.
        edit_peak_mb: largest memory of the child.
        rollback: answer of policy/rollback.
        swap_forth: answer of the swap after it.
        missed_ticks: as policy_node counted them.
        ticks: control ticks of both sides.
        status: last figures of policy_node.
        seconds: wall time of each part.
    """

    before: list[Driven]
    after: list[Driven]
    mid_swap: MidSwap
    mid_swap_episode: str
    bags: tuple[Path, Path, Path]
    edit: EditResult
    edit_seconds: float
    edit_peak_mb: float
    rollback: SwapInfo
    swap_forth: SwapInfo
    missed_ticks: int
    ticks: int
    status: dict[str, float]
    seconds: dict[str, float]


def play(options: Options, screen: Screen) -> Story:
    """Start the graph, tell the story, stop every process, whatever happens."""
    with running(demo_processes(options.base, options.out), options.out / "logs", screen.log) as client:
        return _Narrator(options, screen, client).tell()


def new_run_folder(root: Path) -> Path:
    """A folder named by the time, with ``latest`` pointing at it."""
    folder = root / datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    folder.mkdir(parents=True)
    latest = root / "latest"
    latest.unlink(missing_ok=True)
    latest.symlink_to(folder.name)
    return folder


class _Narrator:
    def __init__(self, options: Options, screen: Screen, client: RobotClient) -> None:
        self._options, self._screen, self._client = options, screen, client
        self._drive = Drive(client, options.out / "bags")
        self._seconds: dict[str, float] = {}

    def tell(self) -> Story:
        with self._timed("start"):
            wait_for_nodes(self._client)
        jobs = self._options.plan.jobs()
        before, first_bag = self._rollouts("base policy", "rollouts_before", jobs)
        edit, edit_seconds, peak_mb = self._edit(before, first_bag)
        with self._timed("swap"):
            mid_swap, mid_episode, mid_bag = self._swap(edit.adapter_digest, before)
        after, second_bag = self._rollouts("with adapter", "rollouts_after", jobs)
        rollback = self._client.rollback("demo: shows that the way back works")
        self._screen.note(f"rolled back to the base policy in {rollback.swap_ms:.2f} ms")
        forth = self._client.swap(edit.adapter_digest)
        self._screen.note(f"swapped forth again in {forth.swap_ms:.2f} ms (it had stayed resident)")
        status = self._client.wait_for_policy(lambda s: s.active_digest == edit.adapter_digest)
        return Story(
            before,
            after,
            mid_swap,
            mid_episode,
            (first_bag, second_bag, mid_bag),
            edit,
            edit_seconds,
            peak_mb,
            rollback,
            forth,
            int(status.missed_ticks),
            sum(d.steps for d in (*before, *after)),
            {
                "rate_hz": float(status.rate_hz),
                "inference_ms_p50": float(status.inference_ms_p50),
                "inference_ms_p99": float(status.inference_ms_p99),
            },
            self._seconds,
        )

    def _rollouts(self, title: str, part: str, jobs: list[RolloutJob]) -> tuple[list[Driven], Path]:
        with self._timed(part), self._screen.rollouts(title, lambda: self._client.safety_status) as progress:
            return self._drive.run(jobs, progress)

    def _edit(self, before: list[Driven], bag: Path) -> tuple[EditResult, float, float]:
        plan = self._options.plan
        near, forget = plan.scenario.boundary, plan.scenario.forget
        ids = [driven.rollout_id for driven in before if driven.job.situation in near]
        without = [driven.rollout_id for driven in before if driven.job.situation not in forget]
        name = f"demo-{plan.scenario.name}"
        document = request(
            plan,
            self._options.base,
            [bag],
            without,
            ids,
            name,
            dict(self._options.method_parameters),
            self._options.seed,
            dict(self._options.gates),
        )
        path = self._options.out / "request.yaml"
        path.write_text(yaml.safe_dump(document, sort_keys=False))
        peak = 0.0
        began = time.perf_counter()
        with self._timed("edit"), self._screen.edit() as show:

            def on_progress(progress: Any) -> None:
                nonlocal peak
                peak = max(peak, progress.peak_memory_mb)
                show(progress)

            edit = self._client.edit(str(path), name, on_progress=on_progress)
        return edit, time.perf_counter() - began, peak

    def _swap(self, digest: str, before: list[Driven]) -> tuple[MidSwap, str, Path]:
        # The longest one leaves the swap time to come before its end.
        retained = [driven for driven in before if driven.job in self._options.plan.retain]
        job = max(retained, key=lambda driven: driven.steps).job
        mid, driven, bag = self._drive.swap_while_moving(digest, job)
        self._screen.note(
            f"adapter {digest[:12]} swapped in while the arm moved: staged {mid.info.staged_ms:.0f} ms beside the "
            f"running policy, flipped in {mid.info.swap_ms:.3f} ms, effective from tick {mid.info.effective_step}"
        )
        return mid, driven.rollout_id, bag

    def _timed(self, part: str) -> _Timer:
        return _Timer(self._seconds, part)


class _Timer:
    def __init__(self, into: dict[str, float], part: str) -> None:
        self._into, self._part = into, part

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._into[self._part] = round(time.perf_counter() - self._began, 2)
