"""The monitor in the command path, with real processes: what it does not let through does not move the arm."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import yaml
from live_parts import SHELF, eventually

from vlaforget_ros.adapters import AdapterStore
from vlaforget_ros.errors import SafetyError
from vlaforget_ros.nodes.control import Phase

pytestmark = pytest.mark.ros

TICKS = 80
# More than are over by the time that a busy machine has done something to the running rollout.
MANY = 3000
RULES = {
    "frame": "cell",
    "rules": [
        SHELF,
    ],
}


class Heard:
    """Actions before and behind the gate, and where the arm was."""

    def __init__(self, client: Any) -> None:
        self.asked: list[Any] = []
        self.passed: list[Any] = []
        self.poses: list[tuple[float, float, float]] = []
        client.subscribe("action", self.asked.append)
        client.subscribe("action_checked", self.passed.append)
        client.subscribe("ee_pose", lambda m: self.poses.append(_position(m)))

    def of(self, rollout_id: str) -> tuple[dict[int, Any], dict[int, Any]]:
        """What was asked and what passed, by step."""
        return tuple(
            {m.step: m for m in messages if m.rollout_id == rollout_id}
            for messages in (self.asked, self.passed)
        )


def _position(message: Any) -> tuple[float, float, float]:
    point = message.pose.position
    return (point.x, point.y, point.z)


@pytest.fixture(scope="module")
def robot(graph: Any, client: Any, tiny: Any) -> Iterator[Any]:
    rules = graph.folder / "rules.yaml"
    rules.write_text(yaml.safe_dump(RULES))
    store = AdapterStore(graph.folder / "store")
    sim = {"use_sim_time": True}
    graph.start("policy", checkpoint=str(tiny.folder), store=str(store.root), image_timeout_s=15.0, **sim)
    graph.start("cell", (("action", "action_checked"),), max_ticks=MANY)
    graph.start("safety_monitor", rules_file=str(rules), command_gate=True, **sim)
    client.wait_until_ready(["policy_node", "cell_node", "safety_monitor_node"], 150.0)
    return client


@pytest.fixture(scope="module")
def heard(robot: Any) -> Heard:
    made = Heard(robot)
    # Whoever answers on a service that is asked for just now knows that this client listens (see live_parts.introduce).
    robot.release()
    return made


def test_what_is_allowed_passes_unchanged(robot: Any, heard: Heard) -> None:
    result = robot.execute(robot.reset_cell("faucet-open", 0), max_steps=TICKS)
    assert (result.phase, result.steps) == (Phase.FAILED, TICKS)
    # The result may be there before the last actions are heard.
    assert eventually(lambda: all(TICKS - 1 in some for some in heard.of(result.rollout_id)))
    asked, passed = heard.of(result.rollout_id)
    both = set(asked) & set(passed)
    assert len(both) > TICKS // 4
    for step in both:
        assert passed[step].action == asked[step].action
        assert (passed[step].fault, passed[step].speed_scale) == (0, 1.0)


def test_after_a_stop_only_hold_actions_pass(robot: Any, graph: Any, heard: Heard, make_client: Any) -> None:
    other = make_client()
    with pytest.raises(SafetyError):
        other.flag("no/such/rule")

    instruction = robot.reset_cell("faucet-close", 1)
    known = {message.rollout_id for message in heard.passed}
    with ThreadPoolExecutor(1) as pool:
        # After the first action nothing goes on: the flag is in the air, however late it is.
        with graph.frozen("cell"):
            running = pool.submit(robot.execute, instruction, max_steps=TICKS)
            assert eventually(lambda: heard.passed[-1].rollout_id not in known)
            rollout_id = heard.passed[-1].rollout_id
            assert eventually(lambda: other.flag("keep_out/shelf", "a hand").startswith(rollout_id))
        result = running.result()
    assert (result.rollout_id, result.error_code) == (rollout_id, 400)
    # The result may be there before the last action is heard.
    assert eventually(lambda: result.steps - 1 in heard.of(rollout_id)[1])
    passed = heard.of(rollout_id)[1]
    steps = [step for step in sorted(passed) if passed[step].fault]
    assert steps
    assert steps == sorted(passed)[-len(steps) :]
    assert all(not np.any(np.asarray(passed[step].action)[:3]) for step in steps)
    robot.release()


def test_with_the_monitor_dead_nothing_moves_the_arm(
    robot: Any, graph: Any, heard: Heard, make_client: Any
) -> None:
    instruction = robot.reset_cell("faucet-open", 2)
    running = threading.Event()
    driver = make_client()
    results: list[Any] = []
    thread = threading.Thread(
        target=lambda: results.append(
            driver.execute(
                instruction,
                max_steps=MANY,
                on_step=lambda feedback: running.set() if feedback.step >= 2 else None,
            )
        )
    )
    thread.start()
    assert running.wait(60)
    graph.kill("safety_monitor")
    thread.join()
    # The cell waits for the answer to its image, and gets none: the arm stands where it stood.
    assert results[0].phase is Phase.ABORTED
    assert results[0].steps < MANY
    assert len(set(heard.poses[-3:])) == 1
