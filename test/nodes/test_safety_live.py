"""The safety monitor node alone: every input over DDS, silence, and counts over a restart."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from live_parts import eventually

pytestmark = [pytest.mark.ros, pytest.mark.timeout(400)]

RULES = """
frame: cell
stale_after_s: 60
rules:
  - {type: workspace, id: fence, low_m: [-1, -1, -1], high_m: [1, 1, 1], release_s: 0}
  - {type: joint_limits, id: joints, joints: {a: {low: -1, high: 1}}}
  - {type: wrench, id: force, severity: slow, speed_scale: 0.5, limit_n: 10}
  - {type: separation, id: person, v_r_m_s: 0, t_r_s: 0, t_s_s: 0, c_m: 1, z_d_m: 0, z_r_m: 0}
  - {type: action_range, id: range, low: -1, high: 1}
  - {type: drift, id: drift, limit: 0.5, span: 1}
  - {type: stale_input, id: quiet, severity: stop, input: wrench, limit_s: 1.0}
"""


Send = Callable[[str, Callable[[Any], None]], None]


@pytest.fixture
def send(client: Any) -> Send:
    """Publishes a message of a topic, stamped now and filled in."""
    topics = ("ee_pose", "joint_states", "wrench", "human_distance", "action", "shadow_action", "rollout")
    publishers = {topic: client.publisher(topic) for topic in topics}

    def publish(topic: str, fill: Callable[[Any], None]) -> None:
        kind, out = publishers[topic]
        message = kind()
        message.header.stamp = client.now()
        fill(message)
        out(message)

    return publish


def _pose(message: Any) -> None:
    message.header.frame_id = "cell"
    message.pose.position.x = 2.0


def _joints(message: Any) -> None:
    message.name, message.position = ["a"], [1.5]


def _wrench(message: Any) -> None:
    message.wrench.force.z = 20.0


def _person(message: Any) -> None:
    message.min_range, message.max_range, message.range = 0.1, 5.0, 0.5


def _action(message: Any) -> None:
    message.rollout_id, message.action = "live1", [2.0]
    message.observation_stamp.sec = 5


def _reference(message: Any) -> None:
    message.rollout_id, message.action = "another", [-2.0]
    message.observation_stamp.sec = 5


def _rollout(phase: int) -> Callable[[Any], None]:
    def fill(message: Any) -> None:
        message.rollout_id, message.phase = "live1", phase

    return fill


def _estimate(status: Any) -> tuple[int, int]:
    return (status.estimates[0].rollouts, status.estimates[0].violated) if status.estimates else (0, 0)


def test_every_input_is_judged_and_counts_survive_a_restart(
    graph: Any, client: Any, send: Send, tmp_path: Path
) -> None:
    rules, state = tmp_path / "rules.yaml", tmp_path / "state" / "rates.json"
    rules.write_text(RULES)
    parameters = {"rules_file": str(rules), "state_file": str(state), "heartbeat_s": 0.1}
    # What a canary's candidate computes may be the reference, too.
    reference = (("reference_action", "shadow_action"),)
    graph.start("safety_monitor", reference, **parameters)
    client.wait_until_ready(["safety_monitor_node"], 120.0)
    heard: list[Any] = []
    client.subscribe("safety/violation", heard.append)
    send("rollout", _rollout(0))
    client.wait_for_safety(lambda status: bool(status.estimates))
    # Discovery takes its time: say it again until it is heard.
    wanted = {
        "fence": ("ee_pose", _pose),
        "joints": ("joint_states", _joints),
        "force": ("wrench", _wrench),
        "person": ("human_distance", _person),
        "range": ("action", _action),
        "drift": ("shadow_action", _reference),
    }

    def all_said() -> bool:
        missing = [name for name in wanted if name not in {message.rule for message in heard}]
        for name in missing:
            send(*wanted[name])
            if name == "drift":
                send("action", _action)
        return not missing

    assert eventually(all_said)
    said = {message.rule: message for message in heard}
    assert {message.rollout_id for message in heard} == {"live1"}
    assert said["force"].value == 20.0
    assert said["drift"].value == 1.0
    # Nobody sends a wrench any more.
    stopped = client.wait_for_safety(lambda status: status.state == 2)
    assert stopped.reason.startswith("quiet: no usable wrench")
    send("rollout", _rollout(2))
    client.wait_for_safety(lambda status: _estimate(status) == (1, 1))
    assert graph.stop("safety_monitor") == 0
    assert json.loads(state.read_text())["ends"] == 1

    graph.start("safety_monitor", **parameters)
    client.wait_until_ready(["safety_monitor_node"], 120.0)
    # What was latched stays so until somebody releases it.
    client.wait_for_safety(lambda status: status.state == 2 and _estimate(status) == (1, 1))
    assert "quiet" in client.release()
    client.wait_for_safety(lambda status: status.state != 2 and _estimate(status) == (1, 1))
    assert graph.stop("safety_monitor") == 0

    state.write_text("{ half of it")
    graph.start("safety_monitor", **parameters)
    client.wait_until_ready(["safety_monitor_node"], 120.0)
    client.wait_for_safety(lambda status: _estimate(status)[1] == 0)
    assert graph.stop("safety_monitor") == 0
    assert "begin anew" in graph.log("safety_monitor")
    assert (state.parent / "rates.json.damaged-1").read_text() == "{ half of it"


def test_diagnostics_come_with_each_heartbeat_and_at_once_when_the_state_changes(
    graph: Any, client: Any, send: Send, tmp_path: Path
) -> None:
    (tmp_path / "rules.yaml").write_text(RULES)
    heard: list[tuple[int, int]] = []
    statuses: list[tuple[int, int]] = []
    client.subscribe(
        "/diagnostics", lambda m: heard.append((_stamp_ns(m), int.from_bytes(m.status[0].level)))
    )
    client.subscribe("safety/status", lambda m: statuses.append((_stamp_ns(m), m.state)))
    graph.start("safety_monitor", rules_file=str(tmp_path / "rules.yaml"), heartbeat_s=10.0)
    client.wait_until_ready(["safety_monitor_node"], 120.0)
    # A heartbeat: the first word at the activation may be said before anybody listens.
    assert eventually(lambda: bool(heard))
    client.flag("fence")
    client.flag("quiet")
    assert eventually(lambda: heard[-1][1] == 2)
    assert client.release().startswith("released: quiet")
    assert eventually(lambda: heard[-1][1] == 0)
    assert eventually(lambda: any(state == 2 for _, state in statuses))
    assert graph.stop("safety_monitor") == 0
    # By the stamps of the node: how late they are heard says nothing of it.
    stopped, error = (next(stamp for stamp, level in said if level == 2) for said in (statuses, heard))
    assert 0 <= error - stopped < 5_000_000_000
    # A flag that changes no state waits for the heartbeat.
    assert eventually(lambda: len(heard) < len(statuses))


def _stamp_ns(message: Any) -> int:
    return int(message.header.stamp.sec) * 1_000_000_000 + int(message.header.stamp.nanosec)
