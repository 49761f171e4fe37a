"""The cell node at a fixed rate: an arm whose commands end holds, one that the monitor holds does too."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

pytestmark = [pytest.mark.ros, pytest.mark.timeout(180)]

MOVING, LOOK = 8, 14
STILL_M = 1e-3


class Commander:
    """Answers each pose with an action, as a policy answers images; then with hold actions, or not at all."""

    def __init__(self, client: Any) -> None:
        self._kind, self._publish = client.publisher("action")
        self._more = threading.Condition()
        self.positions: list[np.ndarray] = []
        self._first = self._fault = 0
        client.subscribe("ee_pose", self._on_pose)

    def drive(self, fault: int) -> list[float]:
        """Distances between the pose that the last action that moves answers and all later ones [m]."""
        with self._more:
            self._first, self._fault = len(self.positions), fault
            enough = self._more.wait_for(lambda: len(self.positions) >= self._first + MOVING + LOOK, 60.0)
            assert enough
            shown = np.stack(self.positions[self._first + MOVING - 1 :])
        return [float(d) for d in np.linalg.norm(np.diff(shown, axis=0), axis=1)]

    def _on_pose(self, message: Any) -> None:
        point = message.pose.position
        with self._more:
            self.positions.append(np.array([point.x, point.y, point.z]))
            number = len(self.positions) - self._first
            self._more.notify_all()
        motion = self._kind(rollout_id="r", action=[0.02, 0.02, 0.0, 0.0])
        if number <= MOVING:
            self._publish(motion)
        elif self._fault:
            motion.fault, motion.action = self._fault, [0.0, 0.0, 0.0, 0.0]
            self._publish(motion)


@pytest.fixture(scope="module")
def commander(graph: Any, client: Any) -> Commander:
    # On a busy machine ticks come in bursts: silence is then shorter than its ticks say. How long it must be is tested
    # with a clock by hand (test/cell/test_commands.py).
    graph.start("cell", mode="fixed_rate", use_sim_time=False, hold_after_s=0.01)
    client.wait_until_ready(["cell_node"], 60.0)
    return Commander(client)


@pytest.mark.parametrize("fault", [0, 400, 401])
def test_after_the_last_action_the_arm_holds_from_the_second_tick_on(
    client: Any, commander: Commander, fault: int
) -> None:
    client.reset_cell("faucet-open", 3)
    moves = commander.drive(fault)
    # The tick of that action, and one more where the actions came early or late in their ticks.
    assert max(moves[:2]) > 2 * STILL_M, moves
    assert max(moves[2:]) < STILL_M, moves
