"""Bags of a robot that never heard of vlaforget: cameras, poses, joints, a spoken task, an operator's verdict."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.interfaces import Connection
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore

SECOND = 1_000_000_000
WALL = 1_700_000_000 * SECOND
"""Log times begin here; stamps are those of a simulation that has just begun."""

IMAGE, STRING, BOOL = "sensor_msgs/msg/Image", "std_msgs/msg/String", "std_msgs/msg/Bool"
POSE, JOINTS = "geometry_msgs/msg/PoseStamped", "sensor_msgs/msg/JointState"
TWIST, ARRAY = "geometry_msgs/msg/Twist", "std_msgs/msg/Float64MultiArray"


class Teleop:
    """Writes messages one by one; times in seconds since the begin of the recording."""

    def __init__(self, path: Path, plugin: StoragePlugin = StoragePlugin.MCAP) -> None:
        self.path = path
        self.store: Typestore = get_typestore(Stores.ROS2_KILTED)
        self.types = self.store.types
        self._writer = Writer(path, version=9, storage_plugin=plugin)
        self._writer.open()
        self._connections: dict[str, Connection] = {}

    def close(self) -> Path:
        self._writer.close()
        return self.path

    def header(self, stamp: float) -> Any:
        ns = round(stamp * SECOND)
        time = self.types["builtin_interfaces/msg/Time"](ns // SECOND, ns % SECOND)
        return self.types["std_msgs/msg/Header"](time, "base")

    def put(self, topic: str, msgtype: str, log: float, *values: Any) -> None:
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(topic, msgtype, typestore=self.store)
        data = self.store.serialize_cdr(self.types[msgtype](*values), msgtype)
        self._writer.write(self._connections[topic], WALL + round(log * SECOND), data)

    def image(
        self, log: float, value: int, stamp: float = 0.0, topic: str = "/camera", size: int = 4
    ) -> None:
        pixels = np.full(size * size * 3, value, np.uint8)
        self.put(topic, IMAGE, log, self.header(stamp), size, size, "rgb8", 0, 3 * size, pixels)

    def text(self, log: float, words: str, topic: str = "/task") -> None:
        self.put(topic, STRING, log, words)

    def flag(self, log: float, value: bool, topic: str = "/success") -> None:
        self.put(topic, BOOL, log, value)

    def pose(self, log: float, x: float, stamp: float = 0.0, topic: str = "/pose") -> None:
        point = self.types["geometry_msgs/msg/Point"](x, 0.0, 0.0)
        turn = self.types["geometry_msgs/msg/Quaternion"](0.0, 0.0, 0.0, 1.0)
        pose = self.types["geometry_msgs/msg/Pose"](point, turn)
        self.put(topic, POSE, log, self.header(stamp), pose)

    def joints(self, log: float, stamp: float, **positions: float) -> None:
        nothing = np.zeros(0)
        values = np.array(list(positions.values()), dtype=np.float64)
        self.put("/joints", JOINTS, log, self.header(stamp), list(positions), values, nothing, nothing)

    def command(self, log: float, *values: float, topic: str = "/cmd") -> None:
        layout = self.types["std_msgs/msg/MultiArrayLayout"]([], 0)
        self.put(topic, ARRAY, log, layout, np.array(values, dtype=np.float64))

    def twist(self, log: float, x: float, turn: float) -> None:
        vector: Callable[..., Any] = self.types["geometry_msgs/msg/Vector3"]
        self.put("/twist", TWIST, log, vector(x, 0.0, 0.0), vector(0.0, 0.0, turn))


def episode(tape: Teleop, begin: float, task: str, frames: int = 10, success: bool | None = True) -> None:
    """Images at 10 Hz with values 0, 1, 2 ...; commands at 50 Hz, of which the one 10 ms after an image has its value.

    Logged by wall time; stamps are those of a simulation, 5 s behind the begin of the recording.
    """
    tape.text(begin - 0.05, task)
    for frame in range(frames):
        now = begin + frame / 10
        tape.image(now, frame, stamp=5 + now)
        for part in range(5):
            value = frame if part == 0 else 1000 + part
            tape.command(now + 0.01 + part / 50, value, -value)
        tape.joints(now + 0.002, 5 + now, b=2.0, a=float(frame))
    if success is not None:
        tape.flag(begin + frames / 10, success)
