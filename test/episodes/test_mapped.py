"""Episodes of bags that know nothing of this package: cut, matched and counted by a mapping."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from foreign_bags import chunk_places
from mcap.records import ChunkIndex
from rosbags.rosbag2 import StoragePlugin
from teleop_bags import SECOND, WALL, Teleop, episode

from vlaforget_ros.episodes import read_episodes, read_many, scan_episodes, scan_many
from vlaforget_ros.episodes.mapped.mapping import TopicMapping, parse_mapping
from vlaforget_ros.episodes.types import EpisodeReport
from vlaforget_ros.errors import ErrorCode, UnlearningError

COMMANDS = "image: camera\naction: {topic: cmd}\ninstruction: {topic: task}\n"


def mapping(text: str = "", base: str = COMMANDS) -> TopicMapping:
    return parse_mapping(base + text)


def both(path: Path, wanted: TopicMapping) -> EpisodeReport:
    """What is read; a scan must say the same of it."""
    read, scanned = read_episodes(path, wanted), scan_episodes(path, wanted)
    told = [
        (e.rollout_id, e.instruction, e.success, e.stamps_ns.tolist(), e.violations) for e in read.episodes
    ]
    assert told == [
        (e.rollout_id, e.instruction, e.success, e.stamps_ns.tolist(), e.violations) for e in scanned.episodes
    ]
    assert read.problems == scanned.problems
    return read


@pytest.mark.parametrize("plugin", list(StoragePlugin), ids=lambda plugin: plugin.name)
def test_rollouts_are_cut_and_every_image_gets_its_action(tmp_path: Path, plugin: StoragePlugin) -> None:
    tape = Teleop(tmp_path / "kitchen", plugin)
    episode(tape, 1, "open the drawer")
    episode(tape, 2.1, "open the drawer", success=False)  # an outcome between them
    episode(tape, 3.2, "close it", success=None)  # another instruction
    episode(tape, 9, "close it", frames=5)  # a gap
    report = both(tape.close(), mapping("outcome: {topic: success}\n"))
    assert report.problems == ()
    assert [(e.instruction, e.success, len(e), e.phase) for e in report.episodes] == [
        ("open the drawer", True, 10, "SUCCEEDED"),
        ("open the drawer", False, 10, "FAILED"),
        ("close it", None, 10, "ABORTED"),
        ("close it", True, 5, "SUCCEEDED"),
    ]
    for found in report.episodes:
        frames = list(range(len(found)))
        assert found.actions.tolist() == [[frame, -frame] for frame in frames]
        assert found.images[:, 0, 0, 0].tolist() == frames
        # Commands have no stamps: log time is the clock of all.
        assert (found.stamps_ns >= WALL).all()
        assert found.rollout_id.startswith("kitchen-00")
    assert len({e.rollout_id for e in report.episodes}) == 4
    only = read_episodes(tmp_path / "kitchen", mapping(), {report.episodes[2].rollout_id})
    assert [e.instruction for e in only.episodes] == []  # without the outcome the cuts are others
    wanted = mapping("outcome: {topic: success}\n")
    only = read_episodes(tmp_path / "kitchen", wanted, {report.episodes[2].rollout_id})
    assert [e.rollout_id for e in only.episodes] == [report.episodes[2].rollout_id]


def test_cuts_can_be_switched_off(tmp_path: Path) -> None:
    tape = Teleop(tmp_path / "bag")
    episode(tape, 1, "a")
    episode(tape, 2.1, "b")
    episode(tape, 9, "c")
    path = tape.close()
    outcome = "outcome: {topic: success}\n"
    lengths = {
        "cut: {gap_s: 0, instruction: false, outcome: false}": [30],
        "cut: {gap_s: 2, instruction: false, outcome: false}": [20, 10],
        "cut: {gap_s: 0, instruction: true, outcome: false}": [10, 10, 10],
        "cut: {gap_s: 0, instruction: false, outcome: true}": [10, 10, 10],
    }
    for text, expected in lengths.items():
        assert [len(e) for e in both(path, mapping(outcome + text)).episodes] == expected, text


def test_stamps_are_the_clock_where_all_have_them(tmp_path: Path) -> None:
    tape = Teleop(tmp_path / "bag")
    tape.text(0, "go")
    for frame in range(10):
        # The wire was slow: by log time every pose would belong to a later image.
        tape.image(1 + frame / 10, frame, stamp=frame / 10)
        tape.pose(1.3 + frame / 10, float(frame), stamp=frame / 10 + 0.004)
    path = tape.close()
    text = "image: camera\naction: {topic: pose, fields: pose.position.x}\ninstruction: {topic: task}\n"
    by_header = both(path, parse_mapping(text)).episodes[0]
    assert by_header.actions[:, 0].tolist() == list(range(10))
    assert by_header.stamps_ns.tolist() == [frame * SECOND // 10 for frame in range(10)]
    by_log = both(path, parse_mapping(text + "time: log\n")).episodes[0]
    assert by_log.actions[:, 0].tolist() == list(range(7))
    assert by_log.images[:, 0, 0, 0].tolist() == list(range(3, 10))


def test_asking_for_stamps_that_are_not_there_is_an_error(tmp_path: Path) -> None:
    tape = Teleop(tmp_path / "bag")
    episode(tape, 1, "a")
    path = tape.close()
    with pytest.raises(UnlearningError) as caught:
        read_episodes(path, mapping("time: header\n"))
    assert caught.value.code is ErrorCode.UNLEARNING_BAD_REQUEST
    assert "/cmd" in str(caught.value.value)


def test_stamps_that_are_all_zero_are_none(tmp_path: Path) -> None:
    tape = Teleop(tmp_path / "bag")
    tape.text(0, "go")
    for frame in range(5):
        tape.image(1 + frame / 10, frame)
        tape.pose(1.01 + frame / 10, float(frame))
    text = "image: camera\naction: {topic: pose, fields: pose.position.x}\ninstruction: {topic: task}\n"
    (found,) = both(tape.close(), parse_mapping(text)).episodes
    assert found.actions[:, 0].tolist() == list(range(5))
    assert (found.stamps_ns >= WALL).all()


@pytest.mark.parametrize(
    ("which", "expected"),
    [("nearest", [10, 20, 30]), ("after", [11, 21, 31]), ("before", [10, 20, 30])],
)
def test_which_action_belongs_to_an_image(tmp_path: Path, which: str, expected: list[int]) -> None:
    tape = Teleop(tmp_path / "bag")
    tape.text(0, "go")
    for frame in (1, 2, 3):
        tape.command(frame / 10 - 0.01, 10 * frame)
        tape.image(frame / 10, frame)
        tape.command(frame / 10 + 0.02, 10 * frame + 1)
    base = COMMANDS.replace("{topic: cmd}", f"{{topic: cmd, match: {which}}}")
    (found,) = both(tape.close(), mapping(base=base)).episodes
    assert found.actions[:, 0].tolist() == expected


def test_of_two_equally_near_the_later_one(tmp_path: Path) -> None:
    tape = Teleop(tmp_path / "bag")
    tape.text(0, "go")
    for frame in (1, 2):
        tape.command(frame / 10 - 0.01, 1)
        tape.image(frame / 10, frame)
        tape.command(frame / 10 + 0.01, 2)
    (found,) = both(tape.close(), mapping()).episodes
    assert found.actions[:, 0].tolist() == [2, 2]


def test_images_without_an_action_near_enough_are_dropped_and_counted(tmp_path: Path) -> None:
    tape = Teleop(tmp_path / "bag")
    tape.text(0, "go")
    for frame in range(10):
        tape.image(1 + frame / 10, frame)
        if frame % 2 == 0:
            tape.command(1 + frame / 10 + 0.03, frame)
    path = tape.close()
    report = both(path, mapping("tolerance_s: 0.031\n"))
    assert report.episodes[0].actions[:, 0].tolist() == [0, 2, 4, 6, 8]
    assert report.episodes[0].dropped_frames == 5
    assert report.count("frames_without_action") == 5
    assert both(path, mapping("tolerance_s: 0.029\n")).count("frames_without_action") == 10
    assert both(path, mapping("tolerance_s: 0.029\n")).count("episode_empty") == 1


def test_state_and_cameras_beside_the_image(tmp_path: Path) -> None:
    tape = Teleop(tmp_path / "bag")
    episode(tape, 1, "go")
    for frame in range(10):
        if frame != 4:
            tape.image(1.02 + frame / 10, 100 + frame, topic="/wrist/image", size=8)
    path = tape.close()
    text = (
        "cameras: [{topic: wrist/image, size: [4, 4]}]\n"
        "state: {topic: joints, fields: position, names: [a, b], scale: [2, 1]}\n"
    )
    report = both(path, mapping(text))
    (found,) = report.episodes
    kept = [frame for frame in range(10) if frame != 4]
    assert found.images.shape == (9, 2, 4, 4, 3)
    assert found.images[:, 0, 0, 0, 0].tolist() == kept
    assert found.images[:, 1, 0, 0, 0].tolist() == [100 + frame for frame in kept]
    assert found.states is not None
    assert found.states.tolist() == [[2.0 * frame, 2.0] for frame in kept]
    assert report.count("frames_without_camera") == 1
    wrong = read_episodes(path, mapping(text.replace(", size: [4, 4]", "")))
    assert wrong.count("images_other_size") == 9
    assert wrong.episodes == ()


def test_differences_of_poses_at_the_rate_of_the_images(tmp_path: Path) -> None:
    tape = Teleop(tmp_path / "bag")
    tape.text(0, "go")
    for tick in range(100):
        now = 1 + tick / 100
        tape.pose(now + 0.001, tick / 100, stamp=now)
        if tick % 10 == 0:
            tape.image(now + 0.002, tick, stamp=now)
    text = (
        "image: camera\ninstruction: {topic: task}\n"
        "action: {topic: pose, fields: [pose.position, pose.orientation], rotation: 3, delta: true, scale: 10}\n"
    )
    report = both(tape.close(), parse_mapping(text))
    (found,) = report.episodes
    np.testing.assert_allclose(found.actions, [[1, 0, 0, 0, 0, 0]] * 9, atol=1e-5)
    assert [(p.kind, p.count) for p in report.problems] == [("frames_without_next", 1)]


def test_a_twist_is_six_values(tmp_path: Path) -> None:
    tape = Teleop(tmp_path / "bag")
    tape.text(0, "go")
    for frame in range(3):
        tape.image(1 + frame / 10, frame)
        tape.twist(1 + frame / 10, 0.5, -1.0)
    base = "image: camera\naction: {topic: twist, fields: [linear, angular]}\ninstruction: {topic: task}\n"
    (found,) = both(tape.close(), parse_mapping(base)).episodes
    assert found.actions.tolist() == [[0.5, 0, 0, 0, 0, -1.0]] * 3


def test_images_before_any_instruction_are_no_rollout(tmp_path: Path) -> None:
    tape = Teleop(tmp_path / "bag")
    for frame in range(3):
        tape.image(0.1 * frame, frame)
    episode(tape, 1, "go")
    path = tape.close()
    report = both(path, mapping())
    assert [len(e) for e in report.episodes] == [10]
    assert report.count("frames_without_instruction") == 3
    fixed = mapping(base=COMMANDS.replace("{topic: task}", "tidy up"))
    assert {e.instruction for e in both(path, fixed).episodes} == {"tidy up"}


def test_a_simulation_that_begins_anew_is_another_rollout(tmp_path: Path) -> None:
    tape = Teleop(tmp_path / "bag")
    tape.text(0, "go")
    for run in range(2):
        for frame in range(10):
            log = 1 + run * 1.2 + frame / 10
            tape.image(log, 10 * run + frame, stamp=3 + frame / 10)
            tape.pose(log + 0.001, 10.0 * run + frame, stamp=3 + frame / 10)
    text = "image: camera\naction: {topic: pose, fields: pose.position.x}\ninstruction: {topic: task}\n"
    report = both(tape.close(), parse_mapping(text))
    assert [e.actions[:, 0].tolist() for e in report.episodes] == [list(range(10)), list(range(10, 20))]
    assert [e.images[:, 0, 0, 0].tolist() for e in report.episodes] == [list(range(10)), list(range(10, 20))]


def test_flags_of_an_operator(tmp_path: Path) -> None:
    tape = Teleop(tmp_path / "bag")
    episode(tape, 1, "go")
    episode(tape, 2.1, "stop")
    for log, value in [(0.5, False), (2.35, True), (2.36, True), (2.37, False), (2.6, True)]:
        tape.flag(log, value, topic="/bad")
    text = "violations: [{topic: bad, field: data, values: [true], rule: operator/bump}]\n"
    report = both(tape.close(), mapping(text))
    first, second = report.episodes
    assert first.violations == ()
    assert [v.rule for v in second.violations] == ["operator/bump"] * 2
    assert [v.stamp_ns - WALL for v in second.violations] == [2_350_000_000, 2_600_000_000]


def test_namespaces_and_ambiguous_names(tmp_path: Path) -> None:
    tape = Teleop(tmp_path / "bag")
    tape.text(0, "go")
    for arm, value in (("left", 1), ("right", 2)):
        for frame in range(3):
            tape.image(1 + frame / 10, value, topic=f"/{arm}/camera")
            tape.command(1 + frame / 10, value, topic=f"/{arm}/cmd")
    path = tape.close()
    base = COMMANDS.replace("{topic: task}", "{topic: /task}")
    (found,) = both(path, mapping("namespace: right\n", base)).episodes
    assert found.actions[:, 0].tolist() == [2, 2, 2]
    with pytest.raises(UnlearningError) as caught:
        read_episodes(path, mapping(base=base))
    assert "/left/camera, /right/camera" in str(caught.value)
    with pytest.raises(UnlearningError) as caught:
        read_episodes(path, mapping("namespace: middle\n", base))
    assert caught.value.code is ErrorCode.UNLEARNING_BAG_UNREADABLE
    assert "episodes map" in caught.value.remedy


@pytest.mark.parametrize(
    ("action", "word"),
    [
        ("{topic: cmd, fields: daata}", "did you mean data"),
        ("{topic: cmd, fields: layout.dim}", "layout.dim[0]"),
        ("{topic: task, fields: data}", "no number"),
        ("{topic: cmd, fields: data.x}", "end the path"),
        ("{topic: cmd, type: geometry_msgs/msg/Twist}", "of type geometry_msgs/msg/Twist"),
        ("{topic: cmd, stamp: data}", "leads to no time"),
    ],
)
def test_fields_that_the_type_does_not_have(tmp_path: Path, action: str, word: str) -> None:
    tape = Teleop(tmp_path / "bag")
    episode(tape, 1, "go")
    path = tape.close()
    with pytest.raises(UnlearningError) as caught:
        scan_episodes(path, mapping(base=COMMANDS.replace("{topic: cmd}", action)))
    assert word in str(caught.value)


def test_empty_topics_and_an_outcome_that_nobody_recorded(tmp_path: Path) -> None:
    tape = Teleop(tmp_path / "bag")
    tape.text(0, "go")
    tape.command(0, 1.0)
    tape.image(0, 1)
    path = tape.close()
    report = both(path, mapping("outcome: {topic: never}\n"))
    assert report.episodes == ()
    assert report.count("episode_short") == 1


def test_bags_of_one_name_are_not_taken_for_one_another(tmp_path: Path) -> None:
    paths = []
    for day in range(2):
        (tmp_path / str(day)).mkdir()
        tape = Teleop(tmp_path / str(day) / "bag")
        episode(tape, 1 + 100 * day, "go")
        paths.append(tape.close())
    assert len(read_many(paths, mapping()).episodes) == 2
    assert len(scan_many(paths, mapping()).episodes) == 2
    # The same bag twice is.
    again = read_many([paths[0], paths[0]], mapping())
    assert again.count("rollout_repeated") == 1


def test_a_lost_chunk_costs_the_rollout_and_those_whose_task_it_may_have_changed(tmp_path: Path) -> None:
    tape = Teleop(tmp_path / "bag")
    tape.text(0, "first")
    for number in range(4):
        begin = 1 + 10 * number
        for frame in range(300):
            tape.image(begin + frame / 100, number, size=64)
            tape.command(begin + frame / 100, number)
        if number == 2:
            tape.text(begin + 5, "second")
    path = tape.close()
    (file,) = path.glob("*.mcap")
    assert [len(e) for e in scan_episodes(path, mapping()).episodes] == [300] * 4

    def within(first: float, last: float) -> ChunkIndex:
        return next(
            place
            for place in chunk_places(file)
            if place.message_start_time > WALL + first * SECOND
            and place.message_end_time < WALL + last * SECOND
        )

    raw = file.read_bytes()
    tear(file, raw, within(1.5, 4))
    report = scan_episodes(path, mapping())
    # The index says that no task was in the lost chunk: the first rollout has a hole, the others are whole.
    assert [e.instruction for e in report.episodes] == ["first", "first", "second"]
    assert report.count("episode_damaged") == report.count("messages_lost")
    # Without any index nobody knows: from the hole to the next instruction everything is in doubt.
    place = within(1.5, 4)
    end = place.chunk_start_offset + place.chunk_length
    tear(file, raw[:end] + b"\xff" + raw[end + 1 : chunk_places(file)[-1].chunk_start_offset], place)
    found = read_episodes(path, mapping(), damaged=True).episodes
    assert [bool(e.damage) for e in found[:4]] == [True, True, True, False]


def tear(file: Path, raw: bytes, place: ChunkIndex) -> None:
    """Give a chunk a checksum that does not fit: rosbags writes none."""
    torn = bytearray(raw)
    torn[place.chunk_start_offset + 33 : place.chunk_start_offset + 37] = b"\1\1\1\1"
    file.write_bytes(bytes(torn))
