"""Records the graph's topics into a rosbag2 while active, message bytes untouched but for masked images."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import PoseStamped
from rclpy.qos import DurabilityPolicy
from sensor_msgs.msg import CompressedImage, Image, JointState

from vlaforget_ros.episodes.messages import still_holds
from vlaforget_ros.episodes.recording.intake import Intake
from vlaforget_ros.episodes.recording.privacy import Region, masks_of, read_masks
from vlaforget_ros.episodes.recording.recording import Recording
from vlaforget_ros.episodes.recording.ring import Heard
from vlaforget_ros.errors import ErrorCode, UnlearningError, VlaForgetError
from vlaforget_ros.nodes import qos
from vlaforget_ros.nodes.base import VlaNode
from vlaforget_ros.nodes.diagnosis import RECORDER, status_name
from vlaforget_ros.nodes.listening import Listening
from vlaforget_ros.nodes.parameters import names_in
from vlaforget_ros.nodes.recorder_parameters import PARAMETERS, settings
from vlaforget_ros.nodes.topics import TOPICS, Topic, beside

Watch = Callable[[Mapping[str, Any]], None]

_VIOLATION = "safety/violation"
# CDR: 4 bytes of encapsulation, then the header's stamp (two 32-bit numbers).
_STAMP = slice(4, 12)
_NO_STAMP = bytes(8)
_LAST_WORDS_S = 0.05
_LOOK_S = 1.0
_SENT_AGAIN = (Image, CompressedImage, JointState, PoseStamped)
_NOT_DIAGNOSED = ("topics", "bags", "unmasked", "dropped")


class RecorderNode(VlaNode):
    """Active means recording: each activation writes one bag, and every way out of it closes the bag.

    Where ``pre_trigger_s`` is set, active means waiting: each violation then writes a bag of its own.

    Args:
        watch: gets the summary once a second while active, and a last time when the recording is closed.
    """

    specs = PARAMETERS
    threads = 1

    def __init__(self, watch: Watch | None = None) -> None:
        super().__init__("recorder_node")
        self._watch = watch
        self._intake: Intake | None = None
        self._recording: Recording | None = None
        self._listening = Listening(self, self._hear)
        self._values: Mapping[str, Any] = {}
        self._masks: Mapping[str, tuple[Region, ...]] = {}
        self._newest: dict[str, bytes] = {}
        self._state: dict[str, Heard] = {}
        self._lost_before: dict[str, int] = {}
        self._again = 0
        self._timer: Any = None
        self._diagnostics: Any = None

    def configure(self, values: Mapping[str, Any]) -> None:
        """Listen already: publishers need a moment to find a new listener, and a bag must not lose its start.

        Raises UnlearningError 300 for masks that are none, and for triggers without the topic that triggers.
        """
        self._values = values
        masks = read_masks(values["mask"])
        further = beside(names_in(values["cameras"]), values["state"])
        names = names_in(values["topics"]) or tuple(topic.name for topic in TOPICS)
        # The state may be one of the graph's own topics, perhaps by another spelling of its name.
        self._listening.begin((*(topic.name for topic in further), *names), (*further, *TOPICS))
        self._masks = masks_of(self._listening.names, masks)
        full = self.resolve_topic_name(_VIOLATION)
        if values["pre_trigger_s"] > 0 and full not in self._listening.names.values():
            raise UnlearningError(
                ErrorCode.UNLEARNING_BAD_REQUEST,
                "recording waits for violations it would not hear",
                value=values["topics"],
                limit=f"{_VIOLATION} among the topics where pre_trigger_s is set",
                remedy=f"add {_VIOLATION} to topics, or set pre_trigger_s to 0",
            )
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", qos.STATE)
        self._timer = self.create_timer(_LOOK_S, self._look, clock=self.steady)
        self._listening.look()

    def activate(self) -> None:
        """Open the bag. Raises UnlearningError 310 when it cannot be made or the disk is almost full."""
        self._newest, self._again = {}, 0
        self._lost_before = dict(self._listening.lost)
        recording = Recording(
            self._path(),
            settings(self._values),
            masks=self._masks,
            triggers=(self.resolve_topic_name(_VIOLATION),),
            offered=self._listening.offered,
            say=self.get_logger().info,
            warn=self.get_logger().warning,
        )
        if self._values["pre_trigger_s"] > 0:
            self.get_logger().info(f"waiting for {_VIOLATION}: bags of incidents go to {recording.path}")
        self._recording = recording
        self._intake = Intake(recording, self._now_ns, self._failed)
        # What was said once and holds still: the running rollout, its instruction.
        now_ns = self._now_ns()
        for heard in self._state.values():
            if still_holds(heard.msgtype, heard.data):
                self._intake.put(Heard(heard.topic, heard.msgtype, heard.data, now_ns, latched=True))

    def deactivate(self) -> None:
        """Close the bag, with everything in it that was said before."""
        if self._intake is None or self._recording is None:
            return
        threading.Event().wait(_LAST_WORDS_S)
        self._listening.drain()
        self._intake.close()
        summary = self.summary()
        self._intake = None
        if self._watch is not None:
            self._watch({**summary, "closed": True})
        for what in ("dropped", "unmasked"):
            if summary[what]:
                told = ", ".join(f"{count} of {topic}" for topic, count in summary[what].items())
                self.get_logger().warning(f"not recorded, {what}: {told}")
        silent = self._silent(summary["topics"])
        if silent and self._recording.bags:
            self.get_logger().warning(f"nothing was heard on {', '.join(silent)}: no edit can use this bag")

    def release(self) -> None:
        """Stop listening."""
        self._listening.end()
        if self._timer is not None:
            self.destroy_timer(self._timer)
            self.destroy_publisher(self._diagnostics)
        self._timer = self._diagnostics = None
        self._state = {}

    def summary(self) -> dict[str, Any]:
        """What the newest recording has: as Recording.summary, with ``dropped`` by topic and ``sent_again``."""
        if self._recording is None or self._intake is None:
            return {}
        dropped = self._intake.dropped.copy()
        for topic, count in self._listening.lost.items():
            dropped[topic] += count - self._lost_before.get(topic, 0)
        return {
            **self._recording.summary(),
            "dropped": {topic: count for topic, count in sorted(dropped.items()) if count},
            "sent_again": self._again,
        }

    def _silent(self, heard: Mapping[str, int]) -> list[str]:
        """Topics without a message that every episode needs; an image may also come compressed."""
        needed = {
            name: {self.resolve_topic_name(name), self.resolve_topic_name(f"{name}/compressed")}
            for name in ("rollout", "action", "image")
        }
        return [name for name, spellings in needed.items() if not spellings & heard.keys()]

    def _path(self) -> Path:
        if self._values["bag"]:
            return Path(self._values["bag"])
        moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S_%f")
        kind = "incidents" if self._values["pre_trigger_s"] > 0 else "bag"
        return Path(self._values["out"]) / f"{kind}_{moment[:-3]}"

    def _hear(self, topic: Topic, data: bytes) -> None:
        latched = topic.qos.durability == DurabilityPolicy.TRANSIENT_LOCAL
        heard = Heard(topic.name, topic.type_name, data, self._now_ns(), latched)
        if latched:
            self._state[topic.name] = heard
        if self._intake is None:
            return
        if topic.type in _SENT_AGAIN:
            # In lockstep an unanswered observation is sent again; once is enough in the bag.
            stamp = data[_STAMP]
            if stamp != _NO_STAMP and self._newest.get(topic.name) == stamp:
                self._again += 1
                return
            self._newest[topic.name] = stamp
        if not self._intake.put(heard):
            self.get_logger().error(
                f"disk is too slow: a message of {topic.name} was dropped", throttle_duration_sec=5.0
            )

    def _failed(self, error: VlaForgetError) -> None:
        self.get_logger().error(f"recording failed: {error}", throttle_duration_sec=5.0)

    def _look(self) -> None:
        self._listening.look()
        if self._intake is None or self._recording is None:
            return
        summary = self.summary()
        if self._watch is not None:
            self._watch(summary)
        if self._recording.error is not None:
            level, text = DiagnosticStatus.ERROR, str(self._recording.error)
        elif summary["dropped"] or summary["unmasked"]:
            level, text = DiagnosticStatus.WARN, "some messages were not recorded"
        else:
            level, text = DiagnosticStatus.OK, "recording" if self._recording.writing else "waiting"
        entry = DiagnosticStatus(level=level, name=status_name(self.get_namespace(), RECORDER), message=text)
        entry.hardware_id = self.get_namespace()
        shown = {name: value for name, value in summary.items() if name not in _NOT_DIAGNOSED}
        shown["dropped"] = sum(summary["dropped"].values())
        shown["left out, not masked"] = sum(summary["unmasked"].values())
        entry.values = [KeyValue(key=name, value=str(value)) for name, value in shown.items()]
        array = DiagnosticArray(status=[entry])
        array.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(array)

    def _now_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)
