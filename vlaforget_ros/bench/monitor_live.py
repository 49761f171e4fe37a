"""The safety monitor node over DDS: from a pose to the status it changes, and the processor it takes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import yaml

from vlaforget_ros.bringup.table import processes
from vlaforget_ros.demo.graph import running
from vlaforget_ros.figures import Figure
from vlaforget_ros.nodes.client import RobotClient

# Both within the last 5 cm before the workspace's border: the speed differs, no rule is broken by the place.
_HEIGHTS_M = (0.87, 0.89)
_WAIT_S = 2.0
_JOINTS = tuple(f"panda_joint{k}" for k in range(1, 8))


@dataclass(frozen=True)
class _Took:
    """Seconds from publishing a pose to the status that it changed: until it arrived, until it was heard."""

    arrived_s: float
    heard_s: float


class _Statuses:
    """Speed scales as they arrive, by the system's clock, which is the middleware's."""

    def __init__(self, client: RobotClient) -> None:
        self._scale, self._arrived_s, self._heard_s = -1.0, 0.0, 0.0
        self._more = threading.Condition()
        client.subscribe("safety/status", self._on_status)

    def _on_status(self, message: Any, info: Any) -> None:
        with self._more:
            self._scale = float(message.speed_scale)
            self._arrived_s, self._heard_s = 1e-9 * info["received_timestamp"], time.time()
            self._more.notify_all()

    def wait(self, before: float) -> tuple[float, float, float]:
        """The first scale that differs from ``before``, when it arrived and when it was heard; ``before`` again when
        none comes."""
        with self._more:
            self._more.wait_for(lambda: self._scale not in (-1.0, before), _WAIT_S)
            return self._scale, self._arrived_s, self._heard_s


class _Others:
    """What else an arm sends in a tick, one sample of every input; nothing that breaks a rule."""

    def __init__(self, client: RobotClient) -> None:
        names = ("joint_states", "wrench", "human_distance", "action", "reference_action")
        self._topics = {name: client.publisher(name) for name in names}
        self._step = 0

    def publish(self, stamp: Any) -> None:
        self._step += 1
        action = {"rollout_id": "r", "step": self._step, "action": [0.01, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]}
        fields: dict[str, dict[str, Any]] = {
            "joint_states": {"name": list(_JOINTS), "position": [0.0, -0.5, 0.0, -2.0, 0.0, 1.6, 0.8]},
            "wrench": {},
            "human_distance": {"range": 3.0, "max_range": 5.0},
            "action": {**action, "observation_stamp": stamp},
            "reference_action": {**action, "observation_stamp": stamp},
        }
        for name, (kind, publish) in self._topics.items():
            message = kind(**fields[name])
            message.header.stamp = stamp
            publish(message)


def measure(
    rules: Path, folder: Path, seconds: float, progress: Callable[[str, int, int], None]
) -> list[Figure]:
    """Run the node alone on an isolated domain.

    Args:
        rules: config/rules/arm.yaml.
        folder: for the rules used and the node's log.
        seconds: of each part, in real time [s].
        progress: told what is being done, how much and of how much.
    """
    used = folder / "rules.yaml"
    used.write_text(_without_jumps(rules), encoding="utf-8")
    table = processes("monitor", {"rules_file": str(used), "use_sim_time": "false"})
    with running(table, folder / "logs", lambda text: None) as client:
        client.wait_until_ready(["safety_monitor_node"])
        poses, statuses = round(100 * seconds), _Statuses(client)
        found = []
        for name, what, others in (
            ("status", "pose to status over DDS", None),
            ("status_of_all", "the same among all inputs", _Others(client)),
        ):
            took = _latencies(client, statuses, poses, others, partial(progress, what))
            found += _figures(name, took)
        share = _cpu(client, seconds, lambda k, n: progress("node's processor at 10 Hz", k, n))
    return [*found, Figure("node_cpu_percent", share, "percent", round(10 * seconds))]


def _figures(name: str, took: list[_Took]) -> list[Figure]:
    """``NAME_ms``: until this process's interpreter has the status; ``NAME_arrived_ms``: until its middleware has."""
    times = {f"{name}_ms": [t.heard_s for t in took], f"{name}_arrived_ms": [t.arrived_s for t in took]}
    return [
        Figure(f"{what}_p{q}", 1e3 * float(np.percentile(seconds, q)), "ms", len(took))
        for what, seconds in times.items()
        for q in (50, 99)
    ]


def _without_jumps(rules: Path) -> str:
    """The rules, with the speed rule only counting: the poses of this benchmark leap between two places."""
    data = yaml.safe_load(rules.read_text(encoding="utf-8"))
    for rule in data["rules"]:
        if rule["type"] == "speed":
            rule["severity"] = "warn"
    return str(yaml.safe_dump(data))


def _latencies(
    client: RobotClient,
    statuses: _Statuses,
    poses: int,
    others: _Others | None,
    progress: Callable[[int, int], None],
) -> list[_Took]:
    """One for each pose, at up to 100 Hz; with ``others`` after one sample of every other input."""
    kind, publish = client.publisher("ee_pose")
    took: list[_Took] = []
    pause = threading.Event()

    def until_heard(height_m: float, before: float) -> float:
        """Repeat a pose until the scale is another one, and one of a pose within the border."""
        for _ in range(100):
            publish(_pose(kind, client, height_m))
            pause.wait(0.1)
            found = statuses.wait(before)[0]
            if found != before and 0.0 < found < 1.0:
                break
        return found

    scale = until_heard(_HEIGHTS_M[0], -1.0)  # discovery
    for k in range(poses):
        tick = time.monotonic()
        if others is not None:
            others.publish(client.now())
        pose = _pose(kind, client, _HEIGHTS_M[(k + 1) % 2])
        begin = time.time()
        publish(pose)
        now, arrived_s, heard_s = statuses.wait(scale)
        if now != scale:
            took.append(_Took(arrived_s - begin, heard_s - begin))
        else:
            took.append(_Took(_WAIT_S, _WAIT_S))
            # It may still come, and must not be taken for the answer to the next pose, nor that one's for another.
            now = until_heard(_HEIGHTS_M[(k + 1) % 2], scale)
        scale = now
        if k % max(1, poses // 10) == 0 or k + 1 == poses:
            progress(k + 1, poses)
        pause.wait(max(0.0, tick + 0.01 - time.monotonic()))
    return took


def _cpu(client: RobotClient, seconds: float, progress: Callable[[int, int], None]) -> float:
    """Percent of one core that the node takes while poses arrive at 10 Hz."""
    (kind, publish), pause = client.publisher("ee_pose"), threading.Event()
    node = next(
        process
        for process in psutil.Process().children(recursive=True)
        if any("safety_monitor" in part for part in process.cmdline())
    )
    node.cpu_percent()
    total = round(10 * seconds)
    for k in range(total):
        publish(_pose(kind, client, _HEIGHTS_M[0]))
        progress(k + 1, total)
        pause.wait(0.1)
    return float(node.cpu_percent())


def _pose(kind: Any, client: RobotClient, height_m: float) -> Any:
    message = kind()
    message.header.stamp = client.now()
    message.header.frame_id = "base"
    message.pose.position.x, message.pose.position.z = 0.4, height_m
    return message
