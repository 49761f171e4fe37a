"""A camera and a rollout on wall-clock time, for tests of a live policy node."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
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

        from vlaforget_ros.msg import RolloutOutcome
        from vlaforget_ros.nodes import qos

        self._size = size
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        self.node = rclpy.create_node("camera", context=self._context, namespace=namespace)
        self.raw = self.node.create_publisher(Image, "image", qos.IMAGE)
        self.compressed = self.node.create_publisher(CompressedImage, "image/compressed", qos.IMAGE)
        self._outcome = self.node.create_publisher(RolloutOutcome, "outcome", qos.STATE)
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
        end, answered = time.monotonic() + 60.0, False
        while not answered and time.monotonic() < end:
            # Best effort, and the answer may come before it is listened to: an image that is sent twice gets the same
            # answer twice.
            publisher.publish(message)
            with self._heard:
                answered = self._heard.wait_for(lambda: stamp_ns in self._answers, timeout=2.0)
        assert answered, "the policy did not answer"
        return self._answers[stamp_ns]

    def end(self, rollout_id: str, success: bool = False) -> None:
        """Say how a rollout went, which ends it."""
        from vlaforget_ros.msg import RolloutOutcome

        wait_for_listener(self._outcome)
        self._outcome.publish(RolloutOutcome(rollout_id=rollout_id, success=success))

    def _on_action(self, message: Any) -> None:
        from vlaforget_ros.nodes import convert

        with self._heard:
            self._answers[convert.nanoseconds(message.observation_stamp)] = message
            self._heard.notify_all()


def start_policy(graph: Any, checkpoint: Path, **parameters: Any) -> None:
    """A policy node whose patience a busy machine does not try, where the parameters do not say otherwise."""
    patient = {"tick_s": 1.0, "stale_after_s": 60.0}
    store = str(graph.folder / "store")
    graph.start("policy", checkpoint=str(checkpoint), store=store, **{**patient, **parameters})


def wait_for_listener(publisher: Any, count: int = 1) -> None:
    """This side's part of a match: what is sent before is lost. The other side's part is for :func:`introduce`."""
    assert eventually(lambda: publisher.get_subscription_count() >= count), "nobody listens"


def introduce(node: Any, others: Sequence[str]) -> None:
    """Wait until other nodes know every publisher and subscription that ``node``, which nobody spins, has made so far.

    Discovery tells of the ends of a process in the order in which they were made. So whoever answers on a service that
    is asked for just now has heard of all the earlier ones: from then on a best-effort message is not lost for want of
    a match.
    """
    from lifecycle_msgs.srv import GetState
    from rclpy.executors import SingleThreadedExecutor

    executor = SingleThreadedExecutor(context=node.context)
    executor.add_node(node)
    for other in others:
        client = node.create_client(GetState, f"{other}/get_state")

        def answered(client: Any = client) -> bool:
            if not client.wait_for_service(timeout_sec=1.0):
                return False
            future = client.call_async(GetState.Request())
            executor.spin_until_future_complete(future, timeout_sec=2.0)
            return bool(future.done())

        assert eventually(answered), f"{other} does not answer"
        node.destroy_client(client)
    executor.remove_node(node)
    executor.shutdown()


def eventually(there: Callable[[], bool], timeout_s: float = 60.0) -> bool:
    """Whether it comes true: what one process did another one knows a moment later, on a busy machine a long one."""
    pause, end = threading.Event(), time.monotonic() + timeout_s
    while not there():
        if time.monotonic() > end:
            return False
        pause.wait(0.05)
    return True


def _png(image: np.ndarray, header: Any) -> Any:
    import io

    from PIL import Image
    from sensor_msgs.msg import CompressedImage

    data = io.BytesIO()
    Image.fromarray(image).save(data, "png")
    return CompressedImage(header=header, format="rgb8; png compressed", data=data.getvalue())


class Rest:
    """The wrist camera and the robot's state."""

    def __init__(self, camera: Camera, listeners: Sequence[str] = ("policy_node",)) -> None:
        from sensor_msgs.msg import Image, JointState

        from vlaforget_ros.nodes import qos

        self._wrist = camera.node.create_publisher(Image, "image_wrist", qos.IMAGE)
        self._state = camera.node.create_publisher(JointState, "policy_state", qos.STATE)
        for publisher in (self._wrist, self._state):
            wait_for_listener(publisher, len(listeners))
        introduce(camera.node, listeners)

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

        answer, end = None, time.monotonic() + 60.0
        while answer is None or not until(answer):
            assert time.monotonic() < end, answer
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
        client.wait_for_policy(lambda status: status.state == 2)
        pool = ThreadPoolExecutor(1)
        self._running = pool.submit(client.execute, instruction, max_steps=max_steps)
        pool.shutdown(wait=False)
        client.wait_for_policy(lambda status: status.state == 3)

    def result(self) -> Any:
        return self._running.result(90.0)
