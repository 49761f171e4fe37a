"""The safety monitor node over DDS: from a pose to the status it changes, and the processor it takes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
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


class _Statuses:
    """Speed scales as they arrive."""

    def __init__(self, client: RobotClient) -> None:
        self._scale, self._at_s = -1.0, 0.0
        self._more = threading.Condition()
        client.subscribe("safety/status", self._on_status)

    def _on_status(self, message: Any) -> None:
        with self._more:
            self._scale, self._at_s = float(message.speed_scale), time.monotonic()
            self._more.notify_all()

    def wait(self, before: float) -> tuple[float, float]:
        """The first scale that differs from ``before`` and when it came; ``before`` again when none comes."""
        with self._more:
            self._more.wait_for(lambda: self._scale not in (-1.0, before), _WAIT_S)
            return self._scale, self._at_s


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
        took = _latencies(
            client, round(100 * seconds), lambda k, n: progress("pose to status over DDS", k, n)
        )
        share = _cpu(client, seconds, lambda k, n: progress("node's processor at 10 Hz", k, n))
    p50, p99 = (1e3 * float(np.percentile(took, q)) for q in (50, 99))
    return [
        Figure("status_ms_p50", p50, "ms", len(took)),
        Figure("status_ms_p99", p99, "ms", len(took)),
        Figure("node_cpu_percent", share, "percent", round(10 * seconds)),
    ]


def _without_jumps(rules: Path) -> str:
    """The rules, with the speed rule only counting: the poses of this benchmark leap between two places."""
    data = yaml.safe_load(rules.read_text(encoding="utf-8"))
    for rule in data["rules"]:
        if rule["type"] == "speed":
            rule["severity"] = "warn"
    return str(yaml.safe_dump(data))


def _latencies(client: RobotClient, poses: int, progress: Callable[[int, int], None]) -> list[float]:
    """From publishing a pose to receiving the status that it changed [s], at up to 100 Hz."""
    statuses, (kind, publish) = _Statuses(client), client.publisher("ee_pose")
    took, pause, scale = [], threading.Event(), -1.0
    # Discovery: the first pose is repeated until it is heard.
    for _ in range(100):
        publish(_pose(kind, client, _HEIGHTS_M[0]))
        pause.wait(0.1)
        if 0.0 < statuses.wait(-1.0)[0] < 1.0:
            break
    scale = statuses.wait(-1.0)[0]
    for k in range(poses):
        begin = time.monotonic()
        publish(_pose(kind, client, _HEIGHTS_M[(k + 1) % 2]))
        now, at_s = statuses.wait(scale)
        took.append((at_s if now != scale else time.monotonic()) - begin)
        scale = now
        progress(k + 1, poses)
        pause.wait(max(0.0, begin + 0.01 - time.monotonic()))
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
