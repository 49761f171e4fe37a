"""What is proposed for a bag can be read with, as it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from teleop_bags import Teleop, episode
from typer.testing import CliRunner

from vlaforget_ros.cli import mapping as command
from vlaforget_ros.episodes import EpisodeWriter, read_episodes
from vlaforget_ros.episodes.mapped.mapping import parse_mapping, read_mapping
from vlaforget_ros.episodes.mapped.proposal import propose_mapping
from vlaforget_ros.errors import UnlearningError

from .conftest import write_rollouts


@pytest.fixture
def teleop(tmp_path: Path) -> Path:
    tape = Teleop(tmp_path / "kitchen")
    episode(tape, 1, "open the drawer")
    episode(tape, 2.1, "close it", success=False)
    for frame in range(20):
        tape.image(1 + frame / 10, frame, topic="/wrist_camera")
        tape.image(1 + frame / 10, frame, topic="/camera/depth")
    tape.flag(1, False, topic="/estop")
    return tape.close()


def test_a_proposal_reads_its_bag(teleop: Path) -> None:
    text = propose_mapping(teleop)
    report = read_episodes(teleop, parse_mapping(text))
    assert [(e.instruction, e.success, len(e)) for e in report.episodes] == [
        ("open the drawer", True, 10),
        ("close it", False, 10),
    ]
    assert "image: /camera\n" in text
    assert "# cameras: [/wrist_camera]" in text
    assert "# state: {topic: /joints, fields: [position]}" in text
    assert "/estop" in text.partition("violations")[2]
    assert "tolerance_s: 0.050" in text
    for topic in ("/camera/depth", "std_msgs/msg/Float64MultiArray", "10.0 Hz"):
        assert topic in text


def test_poses_where_nobody_recorded_a_command(tmp_path: Path) -> None:
    tape = Teleop(tmp_path / "bag")
    for frame in range(5):
        tape.image(frame / 10, frame, stamp=frame / 10)
        tape.pose(frame / 10, frame, stamp=frame / 10)
    report = read_episodes(tmp_path / "bag", parse_mapping(propose_mapping(tape.close())))
    assert [(e.instruction, len(e)) for e in report.episodes] == [("say here what the robot was told", 4)]


def test_a_bag_of_our_own_can_be_mapped_too(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path / "bag") as writer:
        write_rollouts(writer, rollouts=3)
    ours = read_episodes(tmp_path / "bag").episodes
    text = propose_mapping(tmp_path / "bag").replace(
        "topic: /action", "topic: /action\n  stamp: observation_stamp"
    )
    mapped = read_episodes(tmp_path / "bag", parse_mapping(text)).episodes
    assert [e.actions.tolist() for e in mapped] == [e.actions.tolist() for e in ours]
    assert [e.stamps_ns.tolist() for e in mapped] == [e.stamps_ns.tolist() for e in ours]


def test_a_bag_without_a_camera_or_a_command(tmp_path: Path) -> None:
    tape = Teleop(tmp_path / "blind")
    tape.command(0, 1.0)
    with pytest.raises(UnlearningError, match="has no image"):
        propose_mapping(tape.close())
    tape = Teleop(tmp_path / "mute")
    tape.image(0, 1)
    with pytest.raises(UnlearningError, match="could be the action"):
        propose_mapping(tape.close())


def test_the_command_prints_or_writes_once(teleop: Path, tmp_path: Path) -> None:
    import typer

    app = typer.Typer()
    app.callback()(lambda: None)
    command.register(app)
    printed = CliRunner().invoke(app, ["map", str(teleop)])
    assert printed.exit_code == 0
    assert parse_mapping(printed.stdout).action.topic == "/cmd"
    out = tmp_path / "mapping.yaml"
    assert CliRunner().invoke(app, ["map", str(teleop), "--out", str(out)]).exit_code == 0
    assert read_mapping(out) == parse_mapping(printed.stdout)
    again = CliRunner().invoke(app, ["map", str(teleop), "--out", str(out)])
    assert isinstance(again.exception, UnlearningError)
