"""Which topics a recorder hears: the graph's with the types it knows, any other with what the graph says of it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from typing import Any

from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosbags.interfaces import Qos, QosDurability, QosReliability

from vlaforget_ros.episodes.messages import recorded_qos
from vlaforget_ros.episodes.recording.definitions import learn, sourced
from vlaforget_ros.errors import did_you_mean
from vlaforget_ros.nodes import qos
from vlaforget_ros.nodes.topics import TOPICS, Topic

Hear = Callable[[Topic, bytes], None]

_PATIENCE = 3


class Listening:
    """Subscribes, and looks from time to time for topics that nobody published before.

    Args:
        node: whose subscriptions.
        hear: gets the bytes of every message, with its topic under its full name.

    Attributes:
        names: full name by the name given.
        lost: messages that the middleware lost, by full name.
        offered: quality of service of topics that the graph told of, by full name.
    """

    def __init__(self, node: Node, hear: Hear) -> None:
        self._node, self._hear = node, hear
        self._subscriptions: list[Any] = []
        self._wanted: dict[str, str] = {}
        self._looks = 0
        self.names: dict[str, str] = {}
        self.lost: dict[str, int] = {}
        self.offered: dict[str, Qos] = {}

    def begin(self, names: Iterable[str], known: Iterable[Topic]) -> None:
        """Listen to topics by name.

        Args:
            names: relative to the node's namespace, or full.
            known: topics whose type need not be asked for.
        """
        topics: dict[str, Topic] = {}
        for topic in known:
            topics.setdefault(self._node.resolve_topic_name(topic.name), topic)
        for name in names:
            full = self._node.resolve_topic_name(name)
            if full in self.names.values():
                continue
            self.names[name] = full
            if full in topics:
                self._subscribe(full, topics[full].type, topics[full].type_name, topics[full].qos)
            else:
                self._wanted[full] = name

    def look(self) -> None:
        """Ask the graph for the types of what is still missing; say once what does not appear."""
        if not self._wanted:
            return
        there = dict(self._node.get_topic_names_and_types())
        for full in [full for full in self._wanted if full in there]:
            self._found(full, there[full], self._wanted.pop(full))
        self._looks += 1
        if self._looks == _PATIENCE:
            known = {topic.name for topic in TOPICS} | set(there)
            for name in self._wanted.values():
                self._node.get_logger().warning(
                    f"nobody publishes {name} yet; it is recorded from when somebody does; {did_you_mean(name, known)}"
                )

    def drain(self) -> None:
        """Hand over what still waits in the queues: the end of a rollout often arrives with the wish to stop."""
        found = True
        while found:
            found = False
            for subscription in self._subscriptions:
                with subscription.handle:
                    taken = subscription.handle.take_message(subscription.msg_type, subscription.raw)
                if taken is not None:
                    found = True
                    subscription.callback(taken[0])

    def end(self) -> None:
        """Stop listening."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []
        self._wanted.clear()
        self.names.clear()
        self.lost.clear()
        self.offered.clear()

    def _found(self, full: str, types: list[str], name: str) -> None:
        said = self._node.get_logger()
        (msgtype, *others) = types
        if others:
            said.warning(f"{full} is published as {', '.join(types)}: recorded as {msgtype} only")
        if not learn(msgtype, sourced()):
            package = msgtype.partition("/")[0]
            said.error(
                f"{name} is not recorded: no definition of {msgtype}; source the workspace of {package}"
            )
            return
        package, _, kind = msgtype.partition("/msg/")
        try:
            message = getattr(importlib.import_module(f"{package}.msg"), kind)
        except (ImportError, AttributeError) as error:
            said.error(f"{name} is not recorded: no interface of {msgtype} in this environment: {error}")
            return
        common = _common([info.qos_profile for info in self._node.get_publishers_info_by_topic(full)])
        said.info(f"{full} found: {msgtype}")
        self.offered[full] = recorded_qos(full, msgtype)._replace(
            reliability=QosReliability(int(common.reliability)),
            durability=QosDurability(int(common.durability)),
        )
        self._subscribe(full, message, msgtype, common)

    def _subscribe(self, full: str, kind: type, type_name: str, published: QoSProfile) -> None:
        topic = Topic(full, kind, type_name, published)

        def lost(event: Any) -> None:
            self.lost[full] = event.total_count

        self._subscriptions.append(
            self._node.create_subscription(
                kind,
                full,
                lambda data: self._hear(topic, data),
                qos.recording(published),
                raw=True,
                event_callbacks=SubscriptionEventCallbacks(message_lost=lost),
            )
        )


def _common(offered: list[QoSProfile]) -> QoSProfile:
    """What all publishers of a topic promise: who asks for more hears nothing."""
    reliable = all(profile.reliability == ReliabilityPolicy.RELIABLE for profile in offered)
    latched = all(profile.durability == DurabilityPolicy.TRANSIENT_LOCAL for profile in offered)
    return QoSProfile(
        depth=1,
        reliability=ReliabilityPolicy.RELIABLE if offered and reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if offered and latched else DurabilityPolicy.VOLATILE,
    )
