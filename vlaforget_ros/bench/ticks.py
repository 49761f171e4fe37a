"""Whether the policy keeps up with an arm that does not wait: live nodes, the cell moving on by the wall clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlaforget_ros import figures
from vlaforget_ros.attacks.outcomes import percent
from vlaforget_ros.cell.rollouts import jobs_for
from vlaforget_ros.cell.situations import RETAIN
from vlaforget_ros.demo.drive import Drive
from vlaforget_ros.demo.graph import demo_processes, running, wait_for_nodes
from vlaforget_ros.episodes.reader import read_episodes
from vlaforget_ros.episodes.types import Episode
from vlaforget_ros.figures import Figure
from vlaforget_ros.unlearning.rates import Rate

_UNANSWERED = "images_without_action"


def measure(
    base: Path,
    out: Path,
    episodes: int,
    first_seed: int,
    progress: Callable[[int, int], None],
    say: Callable[[str], None],
    situations: Sequence[str] = RETAIN,
) -> dict[str, Any]:
    """Run retained tasks on the demo graph at the control rate, record them, count what was late or missing.

    A tick is an image of a rollout. It is missed when its action came later than the control period (policy_node's
    own count), or when no action answers it (counted in the bag).

    Args:
        base: checkpoint folder.
        out: new folder for logs and bags.
        episodes: of each situation.
        first_seed: of the episodes.
        progress: called with (done, all).
        say: told which process is started and stopped.
        situations: of the cell; every retained task when not given.
    """
    jobs = jobs_for(situations, range(first_seed, first_seed + episodes))
    with running(demo_processes(base, out, fixed_rate=True), out / "logs", say) as client:
        wait_for_nodes(client)
        driven, bag = Drive(client, out / "bags").run(jobs, progress)
        # The heartbeat after the last rollout (those during it say RUNNING): it has the counts of all of them.
        status = client.wait_until_idle()
    report = read_episodes(bag)
    unanswered = sum(p.count for p in report.problems if p.kind == _UNANSWERED)
    late, ticks = int(status.missed_ticks), sum(len(e) for e in report.episodes) + unanswered
    found = [
        Figure("missed_ticks", late + unanswered, "count", ticks),
        Figure("missed_share", 100.0 * (late + unanswered) / max(1, ticks), "percent", ticks),
        Figure("rate_hz", _rate_hz(report.episodes), "Hz", len(report.episodes)),
        Figure("inference_ms_p50", float(status.inference_ms_p50), "ms"),
        Figure("inference_ms_p99", float(status.inference_ms_p99), "ms"),
        percent("tsr_retain_fixed_rate", Rate.of([d.success for d in driven])),
    ]
    return figures.document(
        "ticks", found, sorted({job.seed for job in jobs}), base_digest=status.base_digest
    )


def _rate_hz(episodes: Sequence[Episode]) -> float:
    """Images a second, over all rollouts."""
    spans = [float(e.stamps_ns[-1] - e.stamps_ns[0]) / 1e9 for e in episodes if len(e) > 1]
    return float(sum(len(e) - 1 for e in episodes if len(e) > 1) / np.sum(spans)) if spans else 0.0
