"""The cell node at a fixed rate: an arm whose commands end holds, one that the monitor holds does too."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest

pytestmark = [pytest.mark.ros, pytest.mark.timeout(180)]

MOVING, LOOK = 8, 14
STILL_M = 1e-3
SECOND = 1_000_000_000


class Commander:
    """Answers poses with actions, as a policy answers images; then with hold actions, or not at all.

    By the stamps of the poses, which the cell gives: how late they are heard here says nothing of the arm. One from
    before the last answer is not answered.
    """

    def __init__(self, client: Any) -> None:
        self._kind, self._publish = client.publisher("action")
        self._more = threading.Condition()
        self._poses: list[tuple[int, np.ndarray]] = []
        self._answered, self._fault = MOVING, 0
        self._began_ns = self._last_ns = 0
        client.subscribe("ee_pose", self._on_pose)

    def drive(self, fault: int) -> tuple[list[float], list[float]]:
        """Distances between poses [m] from the first action on, and between those after the last that moves."""
        with self._more:
            self._answered, self._fault = 0, fault
            self._began_ns = self._last_ns = time.time_ns()
            assert self._more.wait_for(
                lambda: self._answered >= MOVING and len(self._since(self._last_ns)) >= LOOK, 120.0
            )
            return _distances(self._since(self._began_ns)), _distances(self._since(self._last_ns))

    def _since(self, moment_ns: int) -> list[np.ndarray]:
        return [position for stamp_ns, position in self._poses if stamp_ns > moment_ns]

    def _on_pose(self, message: Any) -> None:
        point = message.pose.position
        stamp_ns = message.header.stamp.sec * SECOND + message.header.stamp.nanosec
        with self._more:
            self._poses.append((stamp_ns, np.array([point.x, point.y, point.z])))
            fresh = stamp_ns > self._last_ns
            moving = self._answered < MOVING
            if moving and fresh:
                self._publish(self._kind(rollout_id="r", action=[0.02, 0.02, 0.0, 0.0]))
                self._answered += 1
                self._last_ns = time.time_ns()
            elif self._fault and not moving:
                self._publish(self._kind(rollout_id="r", action=[0.0, 0.0, 0.0, 0.0], fault=self._fault))
            self._more.notify_all()


def _distances(positions: list[np.ndarray]) -> list[float]:
    return [float(d) for d in np.linalg.norm(np.diff(np.stack(positions), axis=0), axis=1)]


@pytest.fixture(scope="module")
def commander(graph: Any, client: Any) -> Commander:
    # On a busy machine ticks come in bursts: silence is then shorter than its ticks say. How long it must be is tested
    # with a clock by hand (test/cell/test_commands.py).
    graph.start("cell", mode="fixed_rate", use_sim_time=False, hold_after_s=0.01)
    client.wait_until_ready(["cell_node"], 120.0)
    return Commander(client)


@pytest.mark.parametrize("fault", [0, 400, 401])
def test_after_the_last_action_the_arm_holds_from_the_second_tick_on(
    client: Any, commander: Commander, fault: int
) -> None:
    client.reset_cell("faucet-open", 3)
    all_moves, after = commander.drive(fault)
    assert max(all_moves) > 2 * STILL_M, all_moves
    # The tick of that action, and one more where the actions came early or late in their ticks.
    assert max(after[1:]) < STILL_M, after
