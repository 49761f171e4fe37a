"""A live policy that looks through two cameras, is told the robot's state, and decides eight actions at once."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from live_parts import INSTRUCTION, Camera, Rollout, wait_for_listener

from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.policy.prompt import build_tokenizer

pytestmark = pytest.mark.ros

REFERENCE = Path(__file__).resolve().parents[1] / "data" / "openvla_oft" / "two"
STATE = [0.01 * number for number in range(8)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("oft") / "two"
    shutil.copytree(REFERENCE, folder)
    build_tokenizer((INSTRUCTION,), 64).save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def robot(graph: Any, client: Any, checkpoint: Path) -> Any:
    graph.start(
        "policy",
        checkpoint=str(checkpoint),
        store=str(graph.folder / "store"),
        cameras="image_wrist",
        state="policy_state",
        stale_after_s=5.0,
        image_timeout_s=3.0,
        tick_s=1.0,
    )
    client.wait_until_ready(["policy_node"], 90.0)
    return client


@pytest.fixture(scope="module")
def camera(robot: Any) -> Iterator[Camera]:
    made = Camera(robot, 28)
    robot.wait_for_policy(lambda status: status.state == 2)
    yield made
    made.close()


class Rest:
    """The wrist camera and the robot's state."""

    def __init__(self, camera: Camera) -> None:
        from sensor_msgs.msg import Image, JointState

        from vlaforget_ros.nodes import qos

        self._wrist = camera.node.create_publisher(Image, "image_wrist", qos.IMAGE)
        self._state = camera.node.create_publisher(JointState, "policy_state", qos.STATE)
        for publisher in (self._wrist, self._state):
            wait_for_listener(publisher)

    def show(self, camera: Camera, level: int = 30) -> Any:
        """Both, then the main camera's image; again until the policy has heard of both."""
        from sensor_msgs.msg import JointState

        from vlaforget_ros.nodes import convert

        answer = None
        while answer is None or answer.fault:
            stamp = convert.time_message(time.time_ns())
            image = np.full((28, 28, 3), level, dtype=np.uint8)
            self._wrist.publish(convert.image_message(image, stamp, "wrist"))
            state = JointState(position=STATE)
            state.header.stamp = stamp
            self._state.publish(state)
            answer = camera.show()
        return answer


def test_it_holds_until_it_sees_everything_and_then_executes_its_chunk(
    robot: Any, camera: Camera, checkpoint: Path
) -> None:
    rollout = Rollout(robot, max_steps=60)
    blind = camera.show()
    assert (blind.fault, np.any(blind.action)) == (200, False)
    assert len(blind.action) == 7
    rest = Rest(camera)
    first = rest.show(camera)
    policy = VlaPolicy.load(checkpoint)
    views = np.stack([np.full((28, 28, 3), level, np.uint8) for level in (90, 30)])
    wanted = policy.steps(policy.act(views, INSTRUCTION, np.array(STATE)).action)
    np.testing.assert_allclose(first.action, wanted[0], atol=1e-4)
    # What the cameras show now does not matter: these were decided with the first image.
    following = [rest.show(camera, level=200) for _ in range(8)]
    for answer, action in zip(following[:7], wanted[1:], strict=True):
        np.testing.assert_allclose(answer.action, action, atol=1e-4)
        assert answer.inference_ms < first.inference_ms
    again = policy.steps(
        policy.act(
            np.stack([views[0], np.full((28, 28, 3), 200, np.uint8)]), INSTRUCTION, np.array(STATE)
        ).action
    )
    np.testing.assert_allclose(following[7].action, again[0], atol=1e-4)
    assert rollout.result().steps >= 10


def test_topics_that_do_not_fit_the_policy_are_refused_when_it_is_configured(
    graph: Any, domain: None, checkpoint: Path
) -> None:
    process = graph.start("policy", checkpoint=str(checkpoint), store=str(graph.folder / "store"))
    assert process.wait(60) == 1
    assert "parameter cameras does not fit the policy; value: none; limit: 1 topic(s)" in graph.log("policy")
    process = graph.start(
        "policy", checkpoint=str(checkpoint), store=str(graph.folder / "store"), cameras="image_wrist"
    )
    assert process.wait(60) == 1
    assert "parameter state does not fit the policy" in graph.log("policy")
