"""A camera and a rollout on wall-clock time, for tests of a live policy node."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

INSTRUCTION = "open the faucet"
SECOND = 1_000_000_000

SHELF = {
    "type": "keep_out",
    "id": "keep_out/shelf",
    "severity": "stop",
    "low_m": [5, 5, 5],
    "high_m": [6, 6, 6],
}
"""A rule that stops the arm and that only an operator's flag can break: no arm gets there."""


class Camera:
    """Publishes images with stamps of its choice, and remembers the actions that answer them."""

    def __init__(self, client: Any, size: int = 64, namespace: str = "") -> None:
        import rclpy
        from sensor_msgs.msg import CompressedImage, Image

        from vlaforget_ros.nodes import qos

        self._size = size
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        self.node = rclpy.create_node("camera", context=self._context, namespace=namespace)
        self.raw = self.node.create_publisher(Image, "image", qos.IMAGE)
        self.compressed = self.node.create_publisher(CompressedImage, "image/compressed", qos.IMAGE)
        self._answers: dict[int, Any] = {}
        self._heard = threading.Condition()
        client.subscribe("action", self._on_action)

    def close(self) -> None:
        import rclpy

        self.node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    def show(
        self,
        age_s: float = 0.0,
        encoding: str = "rgb8",
        compressed: bool = False,
        image: np.ndarray | None = None,
    ) -> Any:
        """Publish an image of this age, a grey one if none is given, and return the action that answers it."""
        from vlaforget_ros.nodes import convert

        stamp_ns = time.time_ns() - round(age_s * SECOND)
        if image is None:
            image = np.full((self._size, self._size, 3), 90, dtype=np.uint8)
        message = convert.image_message(image, convert.time_message(stamp_ns), "cell")
        message.encoding = encoding
        publisher = self.raw
        if compressed:
            message, publisher = _png(image, message.header), self.compressed
        wait_for_listener(publisher)
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


def start_policy(graph: Any, checkpoint: Path, **parameters: Any) -> None:
    """A policy node that gives up early."""
    graph.start(
        "policy",
        checkpoint=str(checkpoint),
        store=str(graph.folder / "store"),
        image_timeout_s=3.0,
        tick_s=1.0,
        **parameters,
    )


def wait_for_listener(publisher: Any, count: int = 1) -> None:
    """Images are best effort: one that is sent before the policy is discovered is lost."""
    tick = threading.Event()
    deadline = time.monotonic() + 30.0
    while publisher.get_subscription_count() < count and time.monotonic() < deadline:
        tick.wait(0.05)


def eventually(there: Callable[[], bool], timeout_s: float = 20.0) -> bool:
    """Whether it comes true: what one process did another one knows a moment later, on a busy machine a long one."""
    pause, end = threading.Event(), time.monotonic() + timeout_s
    while not there() and time.monotonic() < end:
        pause.wait(0.05)
    return there()


def _png(image: np.ndarray, header: Any) -> Any:
    import io

    from PIL import Image
    from sensor_msgs.msg import CompressedImage

    data = io.BytesIO()
    Image.fromarray(image).save(data, "png")
    return CompressedImage(header=header, format="rgb8; png compressed", data=data.getvalue())


class Rest:
    """The wrist camera and the robot's state."""

    def __init__(self, camera: Camera, listeners: int) -> None:
        from sensor_msgs.msg import Image, JointState

        from vlaforget_ros.nodes import qos

        self._wrist = camera.node.create_publisher(Image, "image_wrist", qos.IMAGE)
        self._state = camera.node.create_publisher(JointState, "policy_state", qos.STATE)
        for publisher in (self._wrist, self._state):
            wait_for_listener(publisher, listeners)

    def show(
        self,
        camera: Camera,
        wrist: np.ndarray,
        state: Sequence[float],
        main: np.ndarray | None = None,
        until: Callable[[Any], bool] = lambda answer: answer.fault == 0,
    ) -> Any:
        """Both, then the main camera's image; again until the answer is as it should be: any may overtake another."""
        from sensor_msgs.msg import JointState

        from vlaforget_ros.nodes import convert

        answer = None
        while answer is None or not until(answer):
            stamp = convert.time_message(time.time_ns())
            self._wrist.publish(convert.image_message(wrist, stamp, "wrist"))
            message = JointState(position=list(state))
            message.header.stamp = stamp
            self._state.publish(message)
            answer = camera.show(image=main)
        return answer


class Rollout:
    """A rollout in a thread of its own."""

    def __init__(self, client: Any, max_steps: int, instruction: str = INSTRUCTION) -> None:
        self._result: list[Any] = []
        self._thread = threading.Thread(
            target=lambda: self._result.append(client.execute(instruction, max_steps=max_steps))
        )
        client.wait_for_policy(lambda status: status.state == 2)
        self._thread.start()
        client.wait_for_policy(lambda status: status.state == 3)

    def result(self) -> Any:
        self._thread.join(30.0)
        return self._result[0]
