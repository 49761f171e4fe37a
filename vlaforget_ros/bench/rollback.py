"""How long a bad adapter goes on after somebody asked for a rollback: live nodes, an arm that does not wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from vlaforget_ros.adapters import AdapterStore
from vlaforget_ros.bench.swap import random_adapter
from vlaforget_ros.demo.graph import demo_processes, running, wait_for_nodes
from vlaforget_ros.figures import Figure
from vlaforget_ros.nodes.client import RobotClient
from vlaforget_ros.policy.policy import VlaPolicy

SITUATION, TICK_S = "faucet-open", 0.1
# Actions of an adapter that are waited for before and after a rollback.
_SEEN = 2
_QUIET_S = 1.0


class _Actions:
    """Adapter and time of arrival of every action, as somebody on the network hears them."""

    def __init__(self, client: RobotClient) -> None:
        self._heard: list[tuple[float, str]] = []
        self._more = threading.Condition()
        client.subscribe("action", self._on_action)

    def _on_action(self, message: Any) -> None:
        with self._more:
            self._heard.append((time.monotonic(), str(message.adapter_digest)))
            self._more.notify_all()

    def wait(self, digest: str) -> bool:
        """Wait for the next few actions to be of one adapter; False where none come any more."""
        with self._more:
            start = len(self._heard)

            def seen() -> bool:
                return sum(found == digest for _, found in self._heard[start:]) >= _SEEN

            return self._more.wait_for(seen, timeout=_QUIET_S)

    def last_of(self, digest: str) -> float:
        """When the last action of an adapter came."""
        with self._more:
            return max((when for when, found in self._heard if found == digest), default=0.0)


def measure(
    base: Path, out: Path, trials: int, progress: Callable[[int, int], None], say: Callable[[str], None]
) -> list[Figure]:
    """Swap a bad adapter in, roll it back, many times while the arm moves at its control rate.

    A trial is the time from the call of policy/rollback to the arrival of the last action of the bad adapter; 0 where
    none came after the call.

    Args:
        base: checkpoint folder.
        out: new folder for logs and the store.
        trials: rollbacks.
        progress: called with (done, all).
        say: told which process is started and stopped.
    """
    store = AdapterStore(out / "adapters")
    policy = VlaPolicy.load(base)
    bad = store.add_weights(random_adapter(policy, 0, scale=0.02), {"name": "bad", "method": "random"})
    took: list[float] = []
    phases = np.random.default_rng(0)
    with running(demo_processes(base, out, fixed_rate=True), out / "logs", say) as client:
        wait_for_nodes(client)
        client.prepare_swap()
        actions, seed = _Actions(client), 0
        while len(took) < trials:
            with RobotClient() as driver:
                rollout = threading.Thread(target=_drive, args=(driver, seed))
                rollout.start()
                while rollout.is_alive() and len(took) < trials:
                    found = _trial(client, actions, bad.digest, float(phases.uniform(0.0, TICK_S)))
                    if found is not None:
                        took.append(found)
                        progress(len(took), trials)
                rollout.join()
            seed += 1
    times = 1e3 * np.array(took)
    p50, p99 = (float(np.percentile(times, q)) for q in (50, 99))
    return [
        Figure("rollback_ms_p50", p50, "ms", trials),
        Figure("rollback_ms_p99", p99, "ms", trials),
        Figure("rollback_ms_max", float(times.max()), "ms", trials),
    ]


def _drive(client: RobotClient, seed: int) -> None:
    client.execute(client.reset_cell(SITUATION, seed))


def _trial(client: RobotClient, actions: _Actions, bad: str, phase_s: float) -> float | None:
    """Seconds, or None where the rollout ended meanwhile."""
    client.swap(bad)
    moving = actions.wait(bad)
    # Somebody who asks does not wait for an action to come: any moment between two of them is as likely.
    threading.Event().wait(phase_s)
    asked = time.monotonic()
    client.rollback("benchmark")
    if not moving or not actions.wait(""):
        return None
    return max(0.0, actions.last_of(bad) - asked)
