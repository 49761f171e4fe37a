"""Replay: the events of a bag are those of the live monitor, exactly, and what was not judged is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import pytest
from typer.testing import CliRunner

from vlaforget_ros.bench.scripted import SECOND, Script, live
from vlaforget_ros.cli.app import app
from vlaforget_ros.episodes import BagSink
from vlaforget_ros.episodes.storage.bags import Bag
from vlaforget_ros.errors import SafetyError, VlaForgetError
from vlaforget_ros.safety.config import parse_config
from vlaforget_ros.safety.messages import event_of
from vlaforget_ros.safety.replay import Replayer

RULES = """
rules:
  - {type: keep_out, id: zone, severity: stop, low_m: [1, -1, -1], high_m: [2, 1, 1], release_s: 0.2}
  - {type: speed, id: speed, limit_m_s: 0.5}
  - {type: joint_limits, id: joints, joints: {a: {low: -1, high: 1, velocity: 2}}}
  - {type: wrench, id: force, severity: slow, limit_n: 10}
  - {type: separation, id: person, severity: slow, v_r_m_s: 0, t_r_s: 0, t_s_s: 0, c_m: 1, z_d_m: 0, z_r_m: 0}
  - {type: action_range, id: range, low: -1, high: 1}
  - {type: action_jump, id: jump, limit: 0.5}
  - {type: stale_input, id: quiet, input: wrench, limit_s: 0.3, severity: stop}
  - {type: adapter, id: adapter}
  - {type: drift, id: drift, limit: 0.5, span: 1}
"""
EXPECTED = [
    ("zone", "r1", ""),
    ("speed", "r1", ""),
    ("force", "r1", ""),
    ("quiet", "r2", "d"),
    ("person", "r2", "d"),
    ("joints", "r2", "d"),
    ("range", "r2", "d"),
    ("jump", "r2", "d"),
    ("zone", "", ""),
]


def script() -> Script:
    """Two rollouts and what happens after them; each violation is in EXPECTED, in order."""
    s = Script()

    def calm(times: int) -> None:
        for k in range(times):
            s.wait(0.03).pose(0.01 * (k % 2)).wait(0.01).joints(["a"], [0.0]).wait(0.01).wrench(0, 0, 1)
            s.wait(0.02).person(3.0).wait(0.03).action(0.1, 0.0)

    s.begin("r1")
    calm(5)
    s.wait(0.1).pose(1.5).pose(1.5, frame="elsewhere").wait(0.01).wrench(0, 12, 0)
    s.seen("zone")
    calm(8)
    s.end(1).wait(0.5)
    s.begin("r2", "d")
    calm(3)
    s.wait(0.5).pose(0.0).person(0.5).wait(0.01).joints(["a"], [1.2]).wrench(0, 0, 0).action(1.5, 0.0)
    s.wait(0.05).seen("speed")
    s.wait(0.05).pose(0.3)
    calm(2)
    s.end(3)
    s.wait(0.2).pose(1.2).wait(0.1).pose(float("nan"))
    return s


@pytest.mark.parametrize(("storage", "namespace"), [("mcap", ""), ("sqlite3", "arm1")])
def test_a_replay_says_exactly_what_live_said(
    tmp_path: Path, storage: Literal["mcap", "sqlite3"], namespace: str
) -> None:
    config, told = parse_config(RULES), script()
    events, monitor = live(config, told.messages)
    assert [(e.rule, e.rollout_id, e.adapter_digest) for _, e in events] == EXPECTED
    player = Replayer(config)
    steps: list[tuple[int, int]] = []
    player.play(told.record(tmp_path / "bag", namespace, storage), lambda *step: steps.append(step))
    result = player.result()
    assert [(one.time_ns, one.event) for one in result.found] == events
    assert {one.namespace for one in result.found} == {namespace}
    assert repr(result.breakdown) == repr(monitor.rates.breakdown())
    assert result.messages == len(told.messages)
    assert steps[-1] == (len(told.messages), len(told.messages))


def test_a_split_bag_says_what_the_whole_one_says(tmp_path: Path) -> None:
    """Each file says again which rollout runs; that is no new rollout."""
    config, told = parse_config(RULES), script()
    events, monitor = live(config, told.messages)
    with (
        Bag(told.record(tmp_path / "bag")) as bag,
        BagSink(tmp_path / "split", split_s=0.1, flush_every_s=0) as sink,
    ):
        for topic, msgtype in bag.topics.items():
            sink.add_topic(topic, msgtype)
        for message in bag.messages(bag.topics):
            sink.write(message.topic, message.data, message.time_ns)
        assert sink.repeats > 5
    player = Replayer(config)
    player.play(tmp_path / "split")
    result = player.result()
    assert [(one.time_ns, one.event) for one in result.found] == events
    assert repr(result.breakdown) == repr(monitor.rates.breakdown())


def test_the_table_counts_and_says_what_was_not_judged(tmp_path: Path) -> None:
    player = Replayer(parse_config(RULES))
    player.play(script().record(tmp_path / "bag", lacking="human_distance"))
    rows = {row.rule: row for row in player.result().rules}
    assert (rows["zone"].count, rows["zone"].rollouts) == (2, ("r1",))
    assert rows["zone"].first_s == pytest.approx(1000.598)
    assert (rows["range"].count, rows["range"].not_judged) == (1, "")
    assert (rows["person"].judged, rows["person"].not_judged) == (0, "no human_distance in the bag")
    assert rows["drift"].not_judged == "no reference_action in the bag"
    assert rows["adapter"].not_judged == "its samples allowed no judgement"


def test_judging_anew_leaves_out_what_was_recorded(tmp_path: Path) -> None:
    bag = Script().begin("r").wait(0.1).seen("zone").wait(0.1).pose(1.5).end(2).record(tmp_path / "bag")
    counts = []
    for recorded in (True, False):
        player = Replayer(parse_config(RULES), recorded=recorded)
        player.play(bag)
        counts.append(len(player.result().found))
    assert counts == [0, 1]


def test_bags_follow_each_other_without_a_gap(tmp_path: Path) -> None:
    # The second was recorded years earlier: a jump of the data's clock, and no speed comes of it.
    first = Script().begin("a").wait(0.1).pose(0.0).wait(0.1).pose(0.0).end(1)
    second = Script(start_ns=5 * SECOND).begin("b").wait(0.1).pose(0.9).wait(0.1).pose(1.5).end(2)
    player = Replayer(parse_config(RULES))
    for number, told in enumerate((first, second)):
        player.play(told.record(tmp_path / str(number)))
    result = player.result()
    assert [(one.event.rule, one.event.rollout_id) for one in result.found] == [("zone", "b"), ("speed", "b")]
    assert [one.rollouts for one in result.breakdown] == [2]


def test_a_recorder_whose_clock_was_set_is_no_endless_work(tmp_path: Path) -> None:
    told = Script(start_ns=SECOND).begin("r").wait(0.1).wrench(0, 0, 0)
    told.wait(1_700_000_000).wrench(0, 0, 0).end(2)
    player = Replayer(parse_config(RULES))
    player.play(told.record(tmp_path / "bag"))
    assert [one.event.rule for one in player.result().found] == ["quiet"]


def test_a_bag_of_two_robots_needs_a_name(tmp_path: Path) -> None:
    from vlaforget_ros.safety.replay import choose

    found = {
        "/left/ee_pose": "geometry_msgs/msg/PoseStamped",
        "/right/ee_pose": "geometry_msgs/msg/PoseStamped",
        "/ee_pose": "std_msgs/msg/String",
    }
    wanted = {"ee_pose": ("geometry_msgs/msg/PoseStamped",)}
    with pytest.raises(SafetyError, match="/left, /right") as caught:
        choose(found, wanted, None, tmp_path)
    assert caught.value.code == 401
    assert choose(found, wanted, "/right/", tmp_path) == ({"/right/ee_pose": "ee_pose"}, "right")
    # A sensor outside every namespace belongs to each robot.
    found["/wrench"], wanted["wrench"] = (
        "geometry_msgs/msg/WrenchStamped",
        ("geometry_msgs/msg/WrenchStamped",),
    )
    chosen = {"/right/ee_pose": "ee_pose", "/wrench": "wrench"}
    assert choose(found, wanted, "right", tmp_path) == (chosen, "right")
    del found["/left/ee_pose"]
    assert choose(found, wanted, None, tmp_path) == (chosen, "right")


def test_a_bag_of_something_else_is_not_judged(tmp_path: Path) -> None:
    player = Replayer(parse_config(RULES))
    told = Script().begin("r").wait(0.1).action(0.0).wait(9.0).action(0.0).end(1)
    player.play(told.record(tmp_path / "bag", lacking="outcome"))
    result = player.result()
    assert result.found == ()
    # Nobody recorded a wrench: its silence is not judged.
    assert {row.rule for row in result.rules if not row.not_judged} == {"range", "jump"}
    assert next(row for row in result.rules if row.rule == "quiet").not_judged == "no wrench in the bag"


def test_the_command_writes_a_bag_and_json(tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES)
    bag = script().record(tmp_path / "bag")
    out, document = tmp_path / "out", tmp_path / "replay.json"
    command = [
        "monitor",
        "replay",
        str(bag),
        "--rules",
        str(rules),
        "--out",
        str(out),
        "--json",
        str(document),
    ]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "not judged: no reference_action in the bag" in done.output
    events, _ = live(parse_config(RULES), script().messages)
    with Bag(out) as written:
        assert written.topics == {"/safety/violation": "vlaforget_ros/msg/SafetyViolation"}
        read = [event_of(written.deserialize(message)) for message in written.messages(written.topics)]
    assert [(e.rule, e.rollout_id, e.value, e.message) for e in read] == [
        (e.rule, e.rollout_id, e.value, e.message) for _, e in events
    ]
    told = json.loads(document.read_text())
    assert [e["rule"] for e in told["events"]] == [rule for rule, _, _ in EXPECTED]
    assert told["adapters"][0]["svr"]["estimate"] == 1.0


def test_a_bag_without_violations_gives_a_bag_with_the_topic(tmp_path: Path) -> None:
    bag, out = (
        Script().begin("r").wait(0.1).pose(0.0, 0.5, 0.2).end(1).record(tmp_path / "bag"),
        tmp_path / "out",
    )
    done = CliRunner().invoke(app, ["monitor", "replay", str(bag), "--out", str(out)])
    assert done.exit_code == 0, done.output
    with Bag(out) as written:
        assert list(written.topics) == ["/safety/violation"]
        assert list(written.messages(written.topics)) == []


def test_a_missing_bag_is_a_coded_error(tmp_path: Path) -> None:
    with pytest.raises(VlaForgetError, match="bag does not exist"):
        Replayer(parse_config(RULES)).play(tmp_path / "none")
