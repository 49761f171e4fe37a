"""The policy on wall-clock time: fresh, stale, packed and bad images, a camera that dies, a fixed rate."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from vlaforget_ros.nodes.control import Phase

pytestmark = pytest.mark.ros

INSTRUCTION = "open the faucet"
SECOND = 1_000_000_000


class Camera:
    """Publishes images with stamps of its choice, and remembers the actions that answer them."""

    def __init__(self, client: Any) -> None:
        import rclpy
        from sensor_msgs.msg import CompressedImage, Image

        from vlaforget_ros.nodes import qos

        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        self._node = rclpy.create_node("camera", context=self._context)
        self.raw = self._node.create_publisher(Image, "image", qos.IMAGE)
        self.compressed = self._node.create_publisher(CompressedImage, "image/compressed", qos.IMAGE)
        self._answers: dict[int, Any] = {}
        self._heard = threading.Condition()
        client.subscribe("action", self._on_action)

    def close(self) -> None:
        import rclpy

        self._node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    def show(self, age_s: float = 0.0, encoding: str = "rgb8", compressed: bool = False) -> Any:
        """Publish an image of this age and return the action that answers it."""
        from vlaforget_ros.nodes import convert

        stamp_ns = time.time_ns() - round(age_s * SECOND)
        image = np.full((64, 64, 3), 90, dtype=np.uint8)
        message = convert.image_message(image, convert.time_message(stamp_ns), "cell")
        message.encoding = encoding
        publisher = self.raw
        if compressed:
            message, publisher = _png(image, message.header), self.compressed
        _wait_for_listener(publisher)
        publisher.publish(message)
        with self._heard:
            answered = self._heard.wait_for(lambda: stamp_ns in self._answers, timeout=10.0)
        assert answered, "the policy did not answer"
        return self._answers[stamp_ns]

    def _on_action(self, message: Any) -> None:
        from vlaforget_ros.nodes import convert

        with self._heard:
            self._answers[convert.nanoseconds(message.observation_stamp)] = message
            self._heard.notify_all()


def _wait_for_listener(publisher: Any) -> None:
    """Images are best effort: one that is sent before the policy is discovered is lost."""
    tick = threading.Event()
    deadline = time.monotonic() + 30.0
    while publisher.get_subscription_count() == 0 and time.monotonic() < deadline:
        tick.wait(0.05)


def _png(image: np.ndarray, header: Any) -> Any:
    import io

    from PIL import Image
    from sensor_msgs.msg import CompressedImage

    data = io.BytesIO()
    Image.fromarray(image).save(data, "png")
    return CompressedImage(header=header, format="rgb8; png compressed", data=data.getvalue())


class Rollout:
    """A rollout in a thread of its own."""

    def __init__(self, client: Any, max_steps: int) -> None:
        self._result: list[Any] = []
        self._thread = threading.Thread(
            target=lambda: self._result.append(client.execute(INSTRUCTION, max_steps=max_steps))
        )
        client.wait_for_policy(lambda status: status.state == 2)
        self._thread.start()
        client.wait_for_policy(lambda status: status.state == 3)

    def result(self) -> Any:
        self._thread.join(30.0)
        return self._result[0]


@pytest.fixture(scope="module")
def robot(graph: Any, client: Any, tiny: Any) -> Any:
    graph.start(
        "policy",
        checkpoint=str(tiny.folder),
        store=str(graph.folder / "store"),
        stale_after_s=1.0,
        image_timeout_s=3.0,
        tick_s=1.0,
    )
    client.wait_until_ready(["policy_node"], 90.0)
    return client


@pytest.fixture(scope="module")
def camera(robot: Any) -> Iterator[Camera]:
    made = Camera(robot)
    robot.wait_for_policy(lambda status: status.state == 2)
    yield made
    made.close()


def test_images_are_answered_or_held_with_the_code_of_the_reason(robot: Any, camera: Camera) -> None:
    rollout = Rollout(robot, max_steps=6)
    fresh = camera.show()
    assert fresh.fault == 0
    assert np.any(fresh.action)
    stale = camera.show(age_s=5.0)
    assert (stale.fault, np.any(stale.action)) == (200, False)
    packed = camera.show(compressed=True)
    assert packed.fault == 0
    # The same pixels, so the same action: nothing was lost on the way.
    np.testing.assert_allclose(packed.action, fresh.action)
    unreadable = camera.show(encoding="bayer_rggb8")
    assert (unreadable.fault, np.any(unreadable.action)) == (209, False)
    status = robot.wait_for_policy(lambda s: s.last_fault == 209, timeout_s=5.0)
    assert status.state == 3
    assert camera.show().fault == 0
    assert camera.show().step == 5
    result = rollout.result()
    assert (result.phase, result.steps, result.error_code) == (Phase.FAILED, 6, 0)


def test_a_rollout_that_ends_holding_counts_for_no_rate(robot: Any, camera: Camera) -> None:
    rollout = Rollout(robot, max_steps=1)
    assert camera.show(age_s=5.0).fault == 200
    result = rollout.result()
    assert (result.phase, result.error_code) == (Phase.ABORTED, 200)


def test_a_camera_that_dies_aborts_the_rollout(robot: Any, camera: Camera) -> None:
    rollout = Rollout(robot, max_steps=50)
    assert camera.show().fault == 0
    result = rollout.result()
    assert (result.phase, result.error_code) == (Phase.ABORTED, 200)
    assert "no image for" in result.message


def test_a_cell_at_a_fixed_rate_goes_on_to_its_outcome(robot: Any, camera: Camera, graph: Any) -> None:
    graph.start("cell", mode="fixed_rate", tick_s=0.1, max_ticks=15)
    robot.wait_until_ready(["cell_node"], 60.0)
    outcomes: list[Any] = []
    robot.subscribe("outcome", outcomes.append)
    instruction = robot.reset_cell("faucet-open", 0)
    result = robot.execute(instruction, max_steps=100)
    assert (result.phase, result.message) == (Phase.FAILED, "outcome from simulator")
    # The first images may pass before the policy's first action: the arm holds meanwhile.
    assert 5 <= result.steps <= 17
    assert [o.rollout_id for o in outcomes] == [result.rollout_id]
    assert robot.wait_for_policy(lambda s: s.rate_hz > 0).rate_hz < 12.0


def test_bad_parameters_name_themselves_and_the_node_does_not_start(graph: Any, domain: None) -> None:
    process = graph.start("recorder", storage="tape")
    assert process.wait(30) == 1
    assert "parameter storage is unusable; value: tape; limit: mcap, sqlite3" in graph.log("recorder")
