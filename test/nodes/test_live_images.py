"""The policy on wall-clock time: fresh, stale, packed and bad images, a camera that dies, a fixed rate."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from live_parts import Camera, Rollout, eventually, start_policy

from vlaforget_ros.nodes.control import Phase

pytestmark = pytest.mark.ros

STALE_AFTER_S, OLD_S = 20.0, 60.0


@pytest.fixture(scope="module")
def robot(graph: Any, client: Any, tiny: Any) -> Any:
    start_policy(graph, tiny.folder, stale_after_s=STALE_AFTER_S, image_timeout_s=10.0)
    client.wait_until_ready(["policy_node"], 90.0)
    return client


def test_images_are_answered_or_held_with_the_code_of_the_reason(robot: Any, camera: Camera) -> None:
    rollout = Rollout(robot, max_steps=6)
    fresh = camera.show()
    assert fresh.fault == 0
    assert np.any(fresh.action)
    stale = camera.show(age_s=OLD_S)
    assert (stale.fault, np.any(stale.action)) == (200, False)
    packed = camera.show(compressed=True)
    assert packed.fault == 0
    # The same pixels, so the same action: nothing was lost on the way.
    np.testing.assert_allclose(packed.action, fresh.action)
    unreadable = camera.show(encoding="bayer_rggb8")
    assert (unreadable.fault, np.any(unreadable.action)) == (209, False)
    status = robot.wait_for_policy(lambda s: s.last_fault == 209)
    assert status.state == 3
    assert camera.show().fault == 0
    assert camera.show().step == 5
    result = rollout.result()
    assert (result.phase, result.steps, result.error_code) == (Phase.FAILED, 6, 0)


def test_a_rollout_that_ends_holding_counts_for_no_rate(robot: Any, camera: Camera) -> None:
    rollout = Rollout(robot, max_steps=2)
    # The newest image of the rollout before may be the first observation: then it is one less.
    answer = camera.show(age_s=OLD_S)
    if answer.step == 0:
        answer = camera.show(age_s=OLD_S)
    assert (answer.step, answer.fault) == (1, 200)
    result = rollout.result()
    assert (result.phase, result.error_code) == (Phase.ABORTED, 200)


def test_a_camera_that_dies_aborts_the_rollout(robot: Any, camera: Camera) -> None:
    rollout = Rollout(robot, max_steps=50)
    assert camera.show().fault == 0
    result = rollout.result()
    assert (result.phase, result.error_code) == (Phase.ABORTED, 200)
    assert "no image for" in result.message


def test_a_cell_at_a_fixed_rate_goes_on_to_its_outcome(robot: Any, camera: Camera, graph: Any) -> None:
    outcomes: list[Any] = []
    # The cell, which does not run yet, will know of it when it first answers.
    robot.subscribe("outcome", outcomes.append)
    graph.start("cell", mode="fixed_rate", tick_s=0.1, max_ticks=15)
    robot.wait_until_ready(["cell_node"], 120.0)
    instruction = robot.reset_cell("faucet-open", 0)
    result = robot.execute(instruction, max_steps=10000)
    assert (result.phase, result.message) == (Phase.FAILED, "outcome from simulator")
    # On a busy machine the policy misses images, and the outcome comes after more than the cell's last tick.
    assert result.steps >= 1
    mine = [result.rollout_id]
    assert eventually(lambda: [o.rollout_id for o in outcomes if o.rollout_id in mine] == mine)
    assert robot.wait_for_policy(lambda s: s.rate_hz > 0).rate_hz < 12.0


def test_bad_parameters_name_themselves_and_the_node_does_not_start(graph: Any, domain: None) -> None:
    process = graph.start("recorder", storage="tape")
    assert process.wait(120) == 1
    assert "parameter storage is unusable; value: tape; limit: mcap, sqlite3" in graph.log("recorder")
