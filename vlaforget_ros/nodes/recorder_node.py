"""Records the graph's topics into a rosbag2 while active, message bytes untouched."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from geometry_msgs.msg import PoseStamped
from sensor_msgs.msg import CompressedImage, Image, JointState

from vlaforget_ros.episodes.sink import BagSink
from vlaforget_ros.errors import VlaForgetError
from vlaforget_ros.nodes import qos
from vlaforget_ros.nodes.base import VlaNode
from vlaforget_ros.nodes.parameters import Parameter, names_in
from vlaforget_ros.nodes.topics import TOPICS, Topic, beside

PARAMETERS = (
    Parameter("bag", "", "Folder of the bag to write; empty makes one under out with the date as its name."),
    Parameter("out", "runs/bags", "Where bags without a name go."),
    Parameter("storage", "mcap", "Storage format.", choices=("mcap", "sqlite3")),
    Parameter("cameras", "", "Topics of further cameras, with commas, as the policy node has them."),
    Parameter("state", "", "Topic of the robot's state (JointState), as the policy node has it."),
)

# CDR: 4 bytes of encapsulation, then the header's stamp (two 32-bit numbers).
_STAMP = slice(4, 12)
_LAST_WORDS_S = 0.05
_SENT_AGAIN = (Image, CompressedImage, JointState, PoseStamped)


class RecorderNode(VlaNode):
    """Active means recording: each activation writes one bag, and every way out of it closes the bag."""

    specs = PARAMETERS
    threads = 1

    def __init__(self) -> None:
        super().__init__("recorder_node")
        self._sink: BagSink | None = None
        self._inputs: list[Any] = []
        self._newest: dict[str, bytes] = {}
        self._values: Mapping[str, Any] = {}

    def configure(self, values: Mapping[str, Any]) -> None:
        """Listen already: publishers need a moment to find a new listener, and a bag must not lose its start."""
        self._values = values
        further = beside(names_in(values["cameras"]), values["state"])
        # The state may be one of the graph's own topics, perhaps by another spelling of its name.
        topics = {self.resolve_topic_name(topic.name): topic for topic in (*further, *TOPICS)}
        for topic in topics.values():
            self._inputs.append(
                self.create_subscription(
                    topic.type, topic.name, self._writer(topic), qos.recording(topic.qos), raw=True
                )
            )

    def activate(self) -> None:
        """Open the bag. Raises UnlearningError 310 when it cannot be made."""
        path = self._path()
        self._newest = {}
        self._sink = BagSink(path, storage=self._values["storage"])
        self.get_logger().info(f"recording into {path}")

    def deactivate(self) -> None:
        """Close the bag, with everything in it that was said before."""
        if self._sink is not None:
            self._drain()
        sink, self._sink = self._sink, None
        if sink is None:
            return
        try:
            sink.close()
        except VlaForgetError as error:
            self.get_logger().error(str(error))
            return
        self.get_logger().info(f"closed {sink.path} with {sink.messages} messages")
        silent = self._silent(sink.topics)
        if silent:
            self.get_logger().warning(f"nothing was heard on {', '.join(silent)}: no edit can use this bag")

    def release(self) -> None:
        """Stop listening."""
        for subscription in self._inputs:
            self.destroy_subscription(subscription)
        self._inputs = []

    def _silent(self, heard: Mapping[str, str]) -> list[str]:
        """Topics without a message that every episode needs; an image may also come compressed."""
        needed = {
            name: {self.resolve_topic_name(name), self.resolve_topic_name(f"{name}/compressed")}
            for name in ("rollout", "action", "image")
        }
        return [name for name, spellings in needed.items() if not spellings & heard.keys()]

    def _drain(self) -> None:
        """Write what still waits in the queues: the end of a rollout often arrives with the wish to stop."""
        threading.Event().wait(_LAST_WORDS_S)
        found = True
        while found:
            found = False
            for subscription in self._inputs:
                with subscription.handle:
                    taken = subscription.handle.take_message(subscription.msg_type, subscription.raw)
                if taken is not None:
                    found = True
                    subscription.callback(taken[0])

    def _path(self) -> Path:
        if self._values["bag"]:
            return Path(self._values["bag"])
        moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S_%f")
        return Path(self._values["out"]) / f"bag_{moment[:-3]}"

    def _writer(self, topic: Topic) -> Callable[[bytes], None]:
        full = self.resolve_topic_name(topic.name)

        def write(data: bytes) -> None:
            sink = self._sink
            if sink is None:
                return
            if topic.type in _SENT_AGAIN:
                # In lockstep an unanswered observation is sent again; once is enough in the bag.
                if self._newest.get(topic.name) == data[_STAMP]:
                    return
                self._newest[topic.name] = data[_STAMP]
            try:
                # A topic that nobody publishes is not in the bag: it is added with its first message.
                sink.add_topic(full, topic.type_name)
                sink.write(full, data, self._now_ns())
            except VlaForgetError as error:
                self.get_logger().error(f"recording ends: {error}")
                self._sink = None
                sink.close()

        return write

    def _now_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)
