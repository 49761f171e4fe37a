"""The recorder as a process: incidents with all an edit needs, topics of other packages, masks, a full disk."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from live_parts import eventually, introduce, wait_for_listener
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from vlaforget_ros.episodes import read_episodes
from vlaforget_ros.episodes.storage.bags import Bag
from vlaforget_ros.errors import VlaForgetError

pytestmark = pytest.mark.ros

SECOND = 1_000_000_000
PRE_S, POST_S = 2.0, 2.0


class Arm:
    """What publishes on a robot: camera, policy, monitor."""

    def __init__(self) -> None:
        import rclpy

        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        self.node = rclpy.create_node("arm", context=self._context)
        self._publishers: dict[str, Any] = {}

    def publisher(self, name: str, kind: Any = None, quality: Any = None) -> Any:
        """The publisher of a topic, heard by somebody."""
        from vlaforget_ros.nodes.topics import TOPICS

        if name not in self._publishers:
            if kind is None:
                (topic,) = [topic for topic in TOPICS if topic.name == name]
                kind, quality = topic.type, topic.qos
            self._publishers[name] = self.node.create_publisher(kind, name, quality)
        wait_for_listener(self._publishers[name])
        return self._publishers[name]

    def publishers(self, *names: str) -> None:
        """Make the publishers of topics, and let the recorder know all of them."""
        for name in names:
            self.publisher(name)
        introduce(self.node, ["recorder_node"])

    def say(self, name: str, stamp_ns: int | None = None, **fields: Any) -> int:
        from vlaforget_ros.nodes import convert
        from vlaforget_ros.nodes.topics import TOPICS

        stamp_ns = time.time_ns() if stamp_ns is None else stamp_ns
        (topic,) = [topic for topic in TOPICS if topic.name == name]
        message = topic.type(**fields)
        if hasattr(message, "header"):
            message.header.stamp = convert.time_message(stamp_ns)
        self.publisher(name).publish(message)
        return stamp_ns

    def tick(self, number: int, rollout: str) -> None:
        """An image and the action that answers it."""
        from vlaforget_ros.nodes import convert

        stamp_ns = time.time_ns()
        image = np.full((16, 16, 3), 50 + number % 200, np.uint8)
        self.publisher("image").publish(
            convert.image_message(image, convert.time_message(stamp_ns), "camera")
        )
        stamp = convert.time_message(stamp_ns)
        self.say(
            "action",
            stamp_ns,
            observation_stamp=stamp,
            rollout_id=rollout,
            step=number,
            action=[float(number)],
        )

    def close(self) -> None:
        import rclpy

        self.node.destroy_node()
        rclpy.try_shutdown(context=self._context)


@pytest.fixture
def arm(domain: None) -> Iterator[Arm]:
    made = Arm()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def no_recorder_is_left(graph: Any) -> Iterator[None]:
    """The recorder of a test that failed would disturb the next one."""
    yield
    if "recorder" in graph.processes:
        graph.kill("recorder")


def recorder(graph: Any, client: Any, **parameters: Any) -> None:
    graph.start("recorder", **parameters)
    client.wait_until_ready(["recorder_node"], 120.0)


class Told:
    """What the recorder says of itself, once a second, on the thread that also hears what it records."""

    def __init__(self, client: Any) -> None:
        self.counts: list[int] = []
        self.stamp_ns = 0
        client.subscribe("/diagnostics", self._on_diagnostics)

    def _on_diagnostics(self, message: Any) -> None:
        from vlaforget_ros.nodes import convert

        for status in message.status:
            if status.name == "vlaforget: recorder":
                values = {value.key: value.value for value in status.values}
                self.counts.append(int(values["messages"]))
                self.stamp_ns = convert.nanoseconds(message.header.stamp)

    def recorded(self, count: int) -> bool:
        """Whether so many messages are written."""
        return bool(self.counts) and self.counts[-1] >= count


def test_a_violation_makes_a_bag_with_its_rollout_and_instruction(
    graph: Any, client: Any, arm: Arm, tmp_path: Path
) -> None:
    bags = tmp_path / "bags"
    recorder(
        graph,
        client,
        bag=str(bags),
        pre_trigger_s=PRE_S,
        post_trigger_s=POST_S,
        compression="zstd",
        mask="image: black 0,0,8,8",
    )
    told, numbers = Told(client), itertools.count()
    arm.publishers("image", "action", "safety/violation", "instruction", "rollout")
    arm.say("instruction", data="open the faucet")
    arm.say("rollout", rollout_id="r1", instruction="open the faucet", phase=0)
    began_ns = time.time_ns()

    def ticks_until(there: Callable[[], bool]) -> bool:
        def ticked() -> bool:
            arm.tick(next(numbers), "r1")
            return there()

        return eventually(ticked)

    # Right after the recorder has said something: it keeps up, and has heard what came before.
    assert ticks_until(lambda: told.stamp_ns > began_ns + (PRE_S + 1.0) * SECOND)
    arm.say("safety/violation", rollout_id="r1", rule="keep_out/hand_zone", value=0.1, severity=2)
    assert ticks_until((bags / "incident_1" / "metadata.yaml").is_file)
    assert graph.stop("recorder") == 0
    assert [path.name for path in bags.iterdir()] == ["incident_1"]
    report = read_episodes(bags / "incident_1")
    (episode,) = report.episodes
    assert (episode.rollout_id, episode.instruction) == ("r1", "open the faucet")
    assert [v.rule for v in episode.violations] == ["keep_out/hand_zone"]
    # The start left the ring long ago, and is there. At both ends the ring may part an image from its action.
    problems = {p.kind: p.count for p in report.problems}
    assert problems.pop("end_missing") == 1
    assert problems.keys() <= {"images_without_action", "actions_without_image"}
    assert sum(problems.values()) < len(episode.stamps_ns)
    before = (episode.violations[0].stamp_ns - episode.stamps_ns) / SECOND
    assert before.min() < 0.0 < before.max()
    assert not episode.images[:, :8, :8].any()
    assert episode.images[:, 8:].all()
    with Bag(bags / "incident_1") as bag:
        assert "/instruction" in bag.topics
        (violated_ns,) = [m.time_ns for m in bag.messages(["/safety/violation"])]
        heard_s = [(m.time_ns - violated_ns) / SECOND for m in bag.messages(["/image"])]
    # By the recorder's clock: a message may be on its way for long.
    assert -PRE_S <= min(heard_s) < 0.0 < max(heard_s) <= POST_S
    assert "waiting for safety/violation" in graph.log("recorder")


def test_a_killed_recorder_has_kept_what_it_heard(graph: Any, client: Any, arm: Arm, tmp_path: Path) -> None:
    recorder(graph, client, bag=str(tmp_path / "bag"), split_s=0.5)
    arm.publishers("image", "action", "rollout")
    arm.say("rollout", rollout_id="r3", instruction="go", phase=0)
    pause = threading.Event()
    for number in range(20):
        arm.tick(number, "r3")
        pause.wait(0.05)

    def kept() -> int:
        try:
            return sum(len(episode) for episode in read_episodes(tmp_path / "bag").episodes)
        except VlaForgetError:
            return 0

    # Nobody says anything more; the rest is flushed while it waits.
    assert eventually(lambda: kept() == 20)
    graph.kill("recorder")
    report = read_episodes(tmp_path / "bag")
    (episode,) = report.episodes
    assert (episode.rollout_id, len(episode)) == ("r3", 20)
    assert report.count("bag_damaged") == 1


def test_named_topics_and_no_others_are_recorded_also_of_unknown_ones(
    graph: Any, client: Any, arm: Arm, tmp_path: Path
) -> None:
    from geometry_msgs.msg import Twist
    from test_msgs.msg import Nested

    from vlaforget_ros.nodes import convert, qos

    told = Told(client)
    recorder(graph, client, bag=str(tmp_path / "bag"), topics="image,probe/twist,probe/nested,imagee")
    # Of a package that nothing here knows; its definition comes from the environment.
    nested = arm.node.create_publisher(Nested, "probe/nested", qos.STATE)
    wait_for_listener(nested)
    deep = Nested()
    deep.basic_types_value.int32_value = 7
    nested.publish(deep)
    probe = arm.node.create_publisher(Twist, "probe/twist", qos.LATCHED)
    wait_for_listener(probe)
    message = Twist()
    message.linear.x = 4.0
    probe.publish(message)
    arm.node.create_publisher(Twist, "other", qos.STATE).publish(message)

    def seen() -> bool:
        image = np.full((8, 8, 3), 5, np.uint8)
        stamp = convert.time_message(time.time_ns())
        arm.publisher("image").publish(convert.image_message(image, stamp, "camera"))
        # The others were said once: three messages are all of them and an image.
        return told.recorded(3) and "did you mean image" in graph.log("recorder")

    assert eventually(seen)
    assert "nobody publishes imagee" in graph.log("recorder")
    assert graph.stop("recorder") == 0
    with Bag(tmp_path / "bag") as bag:
        assert bag.topics == {
            "/image": "sensor_msgs/msg/Image",
            "/probe/twist": "geometry_msgs/msg/Twist",
            "/probe/nested": "test_msgs/msg/Nested",
        }
        (found,) = [bag.deserialize(m) for m in bag.messages(["/probe/twist"])]
    assert found.linear.x == 4.0
    # The bag itself says what the type consists of.
    with Reader(tmp_path / "bag") as reader:
        store = get_typestore(Stores.EMPTY)
        for connection in reader.connections:
            store.register(get_types_from_msg(connection.msgdef.data, connection.msgtype))
        ((_, _, data),) = reader.messages([c for c in reader.connections if c.topic == "/probe/nested"])
    assert store.deserialize_cdr(data, "test_msgs/msg/Nested").basic_types_value.int32_value == 7  # type: ignore[attr-defined]
    # Played again it is latched, as it was.
    assert "durability: transient_local" in (tmp_path / "bag" / "metadata.yaml").read_text()


def test_a_rollout_that_began_before_the_recording_has_its_start_in_the_bag(
    graph: Any, client: Any, arm: Arm, tmp_path: Path
) -> None:
    told = Told(client)
    recorder(graph, client, out=str(tmp_path), min_free_mb=0.0, topics="rollout,image,action")
    client.change_state("recorder_node", "deactivate")
    (first,) = tmp_path.iterdir()
    arm.publishers("image", "action", "rollout")
    arm.say("rollout", rollout_id="r2", instruction="go on", phase=0)
    heard: list[Any] = []
    client.subscribe("rollout", heard.append)
    assert eventually(lambda: bool(heard))
    client.change_state("recorder_node", "activate")
    for number in range(10):
        arm.tick(number, "r2")
        threading.Event().wait(0.02)
    assert eventually(lambda: told.recorded(1 + 10 + 10))
    client.change_state("recorder_node", "deactivate")
    assert graph.stop("recorder") == 0
    (second,) = set(tmp_path.iterdir()) - {first}
    report = read_episodes(second)
    assert [(e.rollout_id, e.instruction) for e in report.episodes] == [("r2", "go on")]
    assert report.count("start_missing") == 0


def test_a_disk_that_is_almost_full_is_refused_with_limit_and_remedy(
    graph: Any, client: Any, arm: Arm, tmp_path: Path
) -> None:
    process = graph.start("recorder", bag=str(tmp_path / "bag"), min_free_mb=1e8)
    assert process.wait(120) == 1
    log = graph.log("recorder")
    assert "[310 UNLEARNING_BAG_UNWRITABLE]" in log
    assert "limit: 1e+08 MB (min_free_mb); remedy:" in log
    assert not (tmp_path / "bag").exists()


def test_a_trigger_that_would_not_be_heard_and_a_mask_of_nothing_are_refused(
    graph: Any, domain: None, tmp_path: Path
) -> None:
    process = graph.start("recorder", bag=str(tmp_path / "a"), topics="image", pre_trigger_s=5.0)
    assert process.wait(120) == 1
    assert "add safety/violation to topics" in graph.log("recorder")
    process = graph.start("recorder", bag=str(tmp_path / "a"), mask="imagee: black 0,0,8,8")
    assert process.wait(120) == 1
    assert "did you mean image" in graph.log("recorder")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("pre_trigger_s", [0.0, 5.0], ids=["everything", "an incident"])
def test_the_bag_has_what_monitor_and_recorder_say_on_diagnostics(
    graph: Any, client: Any, tmp_path: Path, pre_trigger_s: float
) -> None:
    told = Told(client)
    recorder(
        graph,
        client,
        bag=str(tmp_path / "bag"),
        topics="safety/violation,/diagnostics",
        pre_trigger_s=pre_trigger_s,
        post_trigger_s=120.0,
    )
    graph.start("safety_monitor", heartbeat_s=0.1)
    client.wait_until_ready(["safety_monitor_node"], 120.0)
    heard: list[Any] = []
    client.subscribe("/diagnostics", lambda message: heard.append((time.monotonic(), message.status[0])))

    def both_since(start_s: float) -> bool:
        names = {status.name for when, status in heard if when > start_s}
        return names >= {"vlaforget: safety monitor", "vlaforget: recorder"}

    assert eventually(lambda: both_since(0.0))
    client.flag("operator/flag", "seen by hand")
    flagged = time.monotonic()
    assert eventually(lambda: both_since(flagged))
    at_flag = len(told.counts)

    def hears_the_monitor() -> bool:
        """More is written than the recorder says itself."""
        written = [count for count in told.counts[at_flag:] if count]
        return bool(written) and written[-1] - written[0] > 2 * len(written)

    assert eventually(hears_the_monitor)
    assert graph.stop("recorder") == 0
    assert graph.stop("safety_monitor") == 0
    folder = tmp_path / "bag" / "incident_1" if pre_trigger_s else tmp_path / "bag"
    with Bag(folder) as bag:
        assert bag.topics["/diagnostics"] == "diagnostic_msgs/msg/DiagnosticArray"
        entries = [s for m in bag.messages(["/diagnostics"]) for s in bag.deserialize(m).status]
    assert {entry.name for entry in entries} == {"vlaforget: safety monitor", "vlaforget: recorder"}
    of_monitor = [entry for entry in entries if entry.name == "vlaforget: safety monitor"]
    assert {entry.message for entry in of_monitor} == {"nominal"}


def test_diagnostics_say_what_is_recorded(graph: Any, client: Any, arm: Arm, tmp_path: Path) -> None:
    import rclpy
    from diagnostic_msgs.msg import DiagnosticArray
    from rclpy.executors import SingleThreadedExecutor

    from vlaforget_ros.nodes import convert

    recorder(graph, client, bag=str(tmp_path / "bag"), topics="image", mask="image: black 0,0,64,64")
    heard: list[Any] = []
    arm.node.create_subscription(DiagnosticArray, "/diagnostics", heard.append, 10)
    executor = SingleThreadedExecutor(context=arm.node.context)
    executor.add_node(arm.node)

    def spun(level: bytes) -> bool:
        rclpy.spin_once(arm.node, executor=executor, timeout_sec=0.1)
        return bool(heard) and heard[-1].status[0].level == level

    assert eventually(lambda: spun(b"\0"))

    def warned() -> bool:
        small = convert.image_message(
            np.ones((8, 8, 3), np.uint8), convert.time_message(time.time_ns()), "camera"
        )
        arm.publisher("image").publish(small)
        return spun(b"\1")

    # The mask is not within the image: it is not written, and that is said.
    assert eventually(warned)
    (status,) = heard[-1].status
    values = {value.key: value.value for value in status.values}
    assert status.name == "vlaforget: recorder"
    assert int(values["left out, not masked"]) >= 1
    assert values["messages"] == "0"
    assert graph.stop("recorder") == 0
    assert "cannot be masked" in graph.log("recorder")
