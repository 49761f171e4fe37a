"""A camera and a rollout on wall-clock time, for tests of a live policy node."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np

INSTRUCTION = "open the faucet"
SECOND = 1_000_000_000


class Camera:
    """Publishes images with stamps of its choice, and remembers the actions that answer them."""

    def __init__(self, client: Any, size: int = 64) -> None:
        import rclpy
        from sensor_msgs.msg import CompressedImage, Image

        from vlaforget_ros.nodes import qos

        self._size = size
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        self.node = rclpy.create_node("camera", context=self._context)
        self.raw = self.node.create_publisher(Image, "image", qos.IMAGE)
        self.compressed = self.node.create_publisher(CompressedImage, "image/compressed", qos.IMAGE)
        self._answers: dict[int, Any] = {}
        self._heard = threading.Condition()
        client.subscribe("action", self._on_action)

    def close(self) -> None:
        import rclpy

        self.node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    def show(self, age_s: float = 0.0, encoding: str = "rgb8", compressed: bool = False) -> Any:
        """Publish an image of this age and return the action that answers it."""
        from vlaforget_ros.nodes import convert

        stamp_ns = time.time_ns() - round(age_s * SECOND)
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


def wait_for_listener(publisher: Any) -> None:
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
    """A rollout of INSTRUCTION in a thread of its own."""

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
