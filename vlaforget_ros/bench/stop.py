"""How long the arm goes on after a violation, and after the monitor dies: live nodes, an arm that does not wait."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from vlaforget_ros import figures
from vlaforget_ros.bringup.supervisor import Supervisor, commands
from vlaforget_ros.bringup.table import ParameterValue, Process, processes
from vlaforget_ros.demo.graph import running
from vlaforget_ros.errors import SafetyError
from vlaforget_ros.figures import Figure
from vlaforget_ros.nodes.client import RobotClient

SITUATION, TICK_S = "faucet-open", 0.1
_SEEN, _QUIET_S, _MOVED_M = 2, 2.0, 1e-3
_STEPS, _LOOK_S, _STILL_S = 40, 1.0, 0.6
_SEVERITY_STOP = _STOPPED = 2

Report = Callable[[str, int, int], None]
Say = Callable[[str], None]


class _Arm:
    """What reaches the arm and how it moves, as somebody on the network hears it."""

    def __init__(self, client: RobotClient) -> None:
        self._passed: list[tuple[float, int]] = []
        self._moved: list[float] = []
        self._position: np.ndarray | None = None
        self._more = threading.Condition()
        client.subscribe("action_checked", self._on_action)
        client.subscribe("ee_pose", self._on_pose)

    def _on_action(self, message: Any) -> None:
        with self._more:
            self._passed.append((time.monotonic(), int(message.fault)))
            self._more.notify_all()

    def _on_pose(self, message: Any) -> None:
        point = message.pose.position
        position = np.array([point.x, point.y, point.z])
        with self._more:
            if self._position is not None and np.linalg.norm(position - self._position) > _MOVED_M:
                self._moved.append(time.monotonic())
            self._position = position

    def wait(self, held: bool) -> bool:
        """Wait for the next few actions to be hold actions, or not to be; False where none come any more."""
        with self._more:
            start = len(self._passed)

            def seen() -> bool:
                return sum(bool(fault) is held for _, fault in self._passed[start:]) >= _SEEN

            return self._more.wait_for(seen, timeout=_QUIET_S)

    def last_unsafe(self) -> float:
        """When the last action that moves came."""
        with self._more:
            return max((when for when, fault in self._passed if not fault), default=0.0)

    def last_motion(self) -> float:
        """When the arm was last seen to have moved."""
        with self._more:
            return self._moved[-1] if self._moved else 0.0


def measure(
    base: Path, out: Path, trials: int, kills: int, report: Report, say: Say, steps: int = _STEPS
) -> dict[str, Any]:
    """Stop the arm through the monitor many times, then kill the monitor many times, while the arm moves at 10 Hz.

    Figures: ``stop_ms``: from the publication of a violation of severity stop to the last action that moves the arm; 0
    where none came after it. ``stop_motion_ms``: to the end of the last control tick in which the arm moved by more
    than a millimetre; after it the arm *holds*. ``killed_action_ms``, ``killed_motion_ms``: the same from kill -9 of
    the monitor.

    Args:
        base: checkpoint folder.
        out: new folder for store, logs and reports.
        trials: violations.
        kills: of the monitor.
        report: called with (what, done, all).
        say: told which process is started and stopped.
        steps: of a rollout, in control ticks.
    """
    table = _table(base, out)
    monitor = [row for row in table if row.executable == "safety_monitor_node"]
    others = [row for row in table if row not in monitor]
    stops: list[tuple[float, float]] = []
    kills_found: list[tuple[float, float]] = []
    with running(others, out / "logs", say) as client:
        arm, rng, violate = _Arm(client), np.random.default_rng(0), _violator(client)
        with Supervisor(commands(monitor), out / "logs", say=say):
            client.wait_until_ready(["cell_node", "policy_node", "safety_monitor_node"])
            with _driven(steps) as posing:
                while len(stops) < trials:
                    stops += _stop(client, arm, rng, posing, violate)
                    report("stops", len(stops), trials)
        while len(kills_found) < kills:
            with Supervisor(commands(monitor), out / "logs", say=say) as keeper:
                client.wait_until_ready(["safety_monitor_node"])
                kills_found += _kill(client, arm, keeper, rng, steps)
            report("kills", len(kills_found), kills)
    found = [
        figure
        for name, motion_name, pairs in (
            ("stop", "stop_motion", stops),
            ("killed_action", "killed_motion", kills_found),
        )
        for figure in (
            *_times(name, [action for action, _ in pairs]),
            *_times(motion_name, [motion for _, motion in pairs]),
        )
    ]
    return figures.document("stop", found, [0], control_period_ms=1e3 * TICK_S, situation=SITUATION)


def _times(name: str, seconds: Sequence[float]) -> list[Figure]:
    if not seconds:
        return []
    times, n = 1e3 * np.array(seconds), len(seconds)
    p50, p99 = (float(np.percentile(times, q)) for q in (50, 99))
    return [
        Figure(f"{name}_ms_p50", p50, "ms", n),
        Figure(f"{name}_ms_p99", p99, "ms", n),
        Figure(f"{name}_ms_max", float(times.max()), "ms", n),
    ]


def _table(base: Path, out: Path) -> tuple[Process, ...]:
    """Cell, policy and monitor, which stands in the command path."""
    overrides: dict[str, dict[str, ParameterValue]] = {
        "policy_node": {"checkpoint": str(base), "store": str(out / "adapters"), "image_timeout_s": 60.0},
        "cell_node": {"mode": "fixed_rate"},
    }
    table = processes("demo", {"use_sim_time": "false", "command_gate": "true"}, overrides)
    return tuple(row for row in table if row.executable not in ("unlearning_node", "recorder_node"))


@contextmanager
def _driven(steps: int) -> Iterator[threading.Lock]:
    """Rollouts, one after the other; while somebody else has the lock the arm is not posed anew."""
    over, posing = threading.Event(), threading.Lock()

    def drive() -> None:
        with RobotClient() as client:
            seed = 0
            while not over.is_set():
                with posing:
                    instruction = client.reset_cell(SITUATION, seed)
                client.execute(instruction, max_steps=steps)
                seed = (seed + 1) % 50

    thread = threading.Thread(target=drive)
    thread.start()
    try:
        yield posing
    finally:
        over.set()
        thread.join()


def _violator(client: RobotClient) -> Callable[[], None]:
    """Publishes a violation that stops the arm. One publisher for all of them: who knows it misses none."""
    kind, publish = client.publisher("safety/violation")
    return lambda: publish(
        kind(rule="bench/stop", severity=_SEVERITY_STOP, message="injected by the benchmark")
    )


def _stop(
    client: RobotClient,
    arm: _Arm,
    rng: np.random.Generator,
    posing: threading.Lock,
    violate: Callable[[], None],
) -> list[tuple[float, float]]:
    """One trial: seconds to the last action and to the last motion; none where the rollout ended meanwhile."""
    if not arm.wait(held=False):
        status = client.safety_status
        if status is not None and status.state == _STOPPED:
            # A violation of an earlier trial came after its release.
            with contextlib.suppress(SafetyError):
                client.release()
        return []
    # A rollout may end while the arm is watched: to be posed anew for the next one is no motion of a held arm.
    with posing:
        return _stopped(client, arm, rng, violate)


def _stopped(
    client: RobotClient, arm: _Arm, rng: np.random.Generator, violate: Callable[[], None]
) -> list[tuple[float, float]]:
    # A violation does not wait for an action to come: any moment between two of them is as likely.
    threading.Event().wait(float(rng.uniform(0.0, TICK_S)))
    began = time.monotonic()
    if began - arm.last_unsafe() > 2 * TICK_S:
        return []
    violate()
    held = arm.wait(held=True)
    last = arm.last_unsafe()
    if not held:
        # The rollout ended, or the monitor did not know the publisher yet: no trial, and the next one begins released.
        _until_stopped(client, violate)
    client.wait_for_safety(lambda status: status.state == _STOPPED)
    threading.Event().wait(_STILL_S)
    moved = arm.last_motion()
    client.release()
    return [(max(0.0, last - began), max(0.0, moved - began))] if held else []


def _until_stopped(client: RobotClient, violate: Callable[[], None]) -> None:
    for _ in range(30):
        status = client.safety_status
        if status is not None and status.state == _STOPPED:
            return
        violate()
        threading.Event().wait(1.0)


def _kill(
    client: RobotClient, arm: _Arm, keeper: Supervisor, rng: np.random.Generator, steps: int
) -> list[tuple[float, float]]:
    """One trial: seconds to the last action and to the last motion; none where the arm did not move before."""
    instruction = client.reset_cell(SITUATION, int(rng.integers(50)))
    with RobotClient() as driver:
        # Long enough for the trial: the arm is posed anew only after it.
        rollout = threading.Thread(target=lambda: driver.execute(instruction, max_steps=steps))
        rollout.start()
        found = _killed(arm, keeper, rng) if arm.wait(held=False) else []
        rollout.join()
    return found


def _killed(arm: _Arm, keeper: Supervisor, rng: np.random.Generator) -> list[tuple[float, float]]:
    threading.Event().wait(float(rng.uniform(0.0, TICK_S)))
    (state,), moved = keeper.states(), arm.last_motion()
    began = time.monotonic()
    os.kill(state.pid, signal.SIGKILL)
    threading.Event().wait(_LOOK_S)
    if began - moved > 2 * TICK_S:
        return []
    return [(max(0.0, arm.last_unsafe() - began), max(0.0, arm.last_motion() - began))]
