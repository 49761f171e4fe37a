"""Records the graph's topics into a rosbag2 while active, message bytes untouched."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vlaforget_ros.episodes.sink import BagSink
from vlaforget_ros.errors import VlaForgetError
from vlaforget_ros.nodes import qos
from vlaforget_ros.nodes.base import VlaNode
from vlaforget_ros.nodes.parameters import Parameter
from vlaforget_ros.nodes.topics import TOPICS, Topic

PARAMETERS = (
    Parameter("bag", "", "Folder of the bag to write; empty makes one under out with the date as its name."),
    Parameter("out", "runs/bags", "Where bags without a name go."),
    Parameter("storage", "mcap", "Storage format.", choices=("mcap", "sqlite3")),
)

# CDR: 4 bytes of encapsulation, then the header's stamp (two 32-bit numbers).
_STAMP = slice(4, 12)
_SENT_AGAIN = ("image", "image/compressed", "joint_states", "ee_pose")


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
        """Take the parameters."""
        self._values = values

    def activate(self) -> None:
        """Open the bag and listen. Raises UnlearningError 310 when it cannot be made."""
        path = self._path()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._newest = {}
        self._sink = BagSink(path, storage=self._values["storage"])
        for topic in TOPICS:
            self._inputs.append(
                self.create_subscription(
                    topic.type, topic.name, self._writer(topic), qos.recording(topic.qos), raw=True
                )
            )
        self.get_logger().info(f"recording into {path}")

    def deactivate(self) -> None:
        """Stop listening and close the bag."""
        for subscription in self._inputs:
            self.destroy_subscription(subscription)
        self._inputs = []
        sink, self._sink = self._sink, None
        if sink is None:
            return
        try:
            sink.close()
        except VlaForgetError as error:
            self.get_logger().error(str(error))
            return
        self.get_logger().info(f"closed {sink.path} with {sink.messages} messages")

    def _path(self) -> Path:
        if self._values["bag"]:
            return Path(self._values["bag"])
        moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        return Path(self._values["out"]) / f"bag_{moment}"

    def _writer(self, topic: Topic) -> Callable[[bytes], None]:
        full = self.resolve_topic_name(topic.name)

        def write(data: bytes) -> None:
            sink = self._sink
            if sink is None:
                return
            if topic.name in _SENT_AGAIN:
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
