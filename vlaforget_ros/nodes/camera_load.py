"""A camera and a robot's joints as load for a recorder: ``python -m vlaforget_ros.nodes.camera_load SECONDS``.

Publishes numbered messages, and at the end one line of JSON with how many there were of each topic.
"""

from __future__ import annotations

import array
import json
import struct
import sys
import threading
import time

import numpy as np
import rclpy
from rclpy.node import Node
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image, JointState

from vlaforget_ros.nodes import qos

WIDTH, HEIGHT = 640, 480
IMAGE_HZ, STATE_HZ = 30, 100
_PICTURES = 12
_NOISE = 2.0
_WAIT_S = 60.0
# CDR: 4 bytes of encapsulation, the stamp, the length of frame_id, and frame_id itself.
_STAMP_AT, _NUMBER_AT = 4, 16
_DIGITS = 8


def pictures() -> list[np.ndarray]:
    """(480, 640, 3) uint8: smooth shapes that move, with the noise of a sensor; as compressible as a camera's."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    found = []
    for number in range(_PICTURES):
        shift = 2 * np.pi * number / _PICTURES
        waves = [np.sin(x / (40 + 20 * c) + shift) * np.cos(y / (60 - 10 * c)) for c in range(3)]
        smooth = 128 + 80 * np.stack(waves, axis=-1)
        noisy = smooth + rng.normal(0.0, _NOISE, smooth.shape)
        found.append(np.clip(noisy, 0, 255).astype(np.uint8))
    return found


def _image(pixels: np.ndarray) -> bytearray:
    message = Image(height=HEIGHT, width=WIDTH, encoding="rgb8", step=3 * WIDTH)
    message.header.frame_id = "0" * _DIGITS
    message.data = array.array("B", pixels.tobytes())
    return bytearray(serialize_message(message))


def _joints() -> bytearray:
    message = JointState(name=[f"joint_{n}" for n in range(7)], position=[0.5] * 7, velocity=[0.0] * 7)
    message.header.frame_id = "0" * _DIGITS
    return bytearray(serialize_message(message))


def _numbered(data: bytearray, number: int) -> bytes:
    """The message with its number in frame_id and its time in the stamp."""
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    struct.pack_into("<iI", data, _STAMP_AT, seconds, nanoseconds)
    data[_NUMBER_AT : _NUMBER_AT + _DIGITS] = f"{number:0{_DIGITS}d}".encode()
    return bytes(data)


def publish(node: Node, seconds: float) -> dict[str, int]:
    """Publish for so long, from when somebody listens; returns how many of each topic."""
    images = node.create_publisher(Image, "image", qos.IMAGE)
    states = node.create_publisher(JointState, "joint_states", qos.STATE)
    pause, end = threading.Event(), time.monotonic() + _WAIT_S
    while not (images.get_subscription_count() and states.get_subscription_count()):
        if time.monotonic() > end:
            return {"image": 0, "joint_states": 0}
        pause.wait(0.05)
    # A listener that is known here need not know this end yet.
    pause.wait(1.0)
    frames, joints = [_image(pixels) for pixels in pictures()], _joints()
    sent = {"image": 0, "joint_states": 0}
    begin = time.monotonic()
    while (now := time.monotonic() - begin) < seconds:
        if sent["image"] <= now * IMAGE_HZ:
            images.publish(_numbered(frames[sent["image"] % len(frames)], sent["image"]))
            sent["image"] += 1
        if sent["joint_states"] <= now * STATE_HZ:
            states.publish(_numbered(joints, sent["joint_states"]))
            sent["joint_states"] += 1
        due = min(sent["image"] / IMAGE_HZ, sent["joint_states"] / STATE_HZ)
        pause.wait(max(0.0, begin + due - time.monotonic()))
    # Reliable messages that are still on their way go with the publisher.
    pause.wait(1.0)
    return sent


def main() -> int:
    """Publish; returns the exit status."""
    rclpy.init()
    node = rclpy.create_node("camera_load")
    try:
        print(json.dumps(publish(node, float(sys.argv[1]))), flush=True)
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
