"""Further cameras and the state of the robot: which message belongs to a frame, and what becomes of the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlaforget_ros.episodes import (
    EpisodeWriter,
    FrameSet,
    TopicMap,
    concat,
    frames_of,
    read_episodes,
    read_many,
)
from vlaforget_ros.episodes.counterfactual import whole
from vlaforget_ros.episodes.images import image_message
from vlaforget_ros.episodes.messages import IMAGE, JOINT_STATE, typestore
from vlaforget_ros.episodes.reader import EpisodeReport
from vlaforget_ros.errors import ErrorCode, UnlearningError

from .conftest import SECOND, STEP, Tape, motion, picture

WRIST, STATE = "image_wrist", "joint_states"
BOTH = TopicMap(cameras=(WRIST,), state=STATE)
MakeTape = Callable[..., Tape]


def joints(tape: Tape, stamp: int, *positions: float, time_ns: int | None = None) -> None:
    header = tape._header(stamp)
    nothing = np.zeros(0)
    message = typestore().types[JOINT_STATE](header, [], np.array(positions), nothing, nothing)
    data = typestore().serialize_cdr(message, JOINT_STATE)
    tape.sink.add_topic(f"/{STATE}", JOINT_STATE)
    tape.sink.write(f"/{STATE}", data, stamp if time_ns is None else time_ns)


def wrist(
    tape: Tape, stamp: int, value: int, time_ns: int | None = None, size: int = 8, topic: str = f"/{WRIST}"
) -> None:
    tape.camera(topic, stamp, picture(value, 99, size), stamp if time_ns is None else time_ns)


def tick(tape: Tape, frame: int, rollout: str = "r0", at: int | None = None) -> None:
    """Main image and action of a frame; logged ``at``, by default at its stamp."""
    stamp = SECOND + frame * STEP
    at = stamp if at is None else at
    tape.image(stamp, picture(frame, 0), at)
    tape.action(stamp, motion(frame, 0), at + STEP // 2, rollout)


def shown(report: EpisodeReport) -> list[int]:
    """What the wrist camera showed in each frame of the one episode."""
    (episode,) = report.episodes
    return [int(view[0, 0, 0]) for view in episode.view(1)]


@pytest.mark.parametrize("compressed", ["", "png"])
def test_what_was_written_is_read_back(tmp_path: Path, compressed: str) -> None:
    views = np.random.default_rng(0).integers(0, 256, (5, 3, 8, 8, 3), dtype=np.uint8)
    states = np.random.default_rng(1).normal(size=(5, 8))
    cameras = (WRIST, "side/image")
    with EpisodeWriter(
        tmp_path / "bag", cameras=cameras, state=STATE, compressed=compressed, namespace="arm"
    ) as writer:
        writer.begin("r0", "go")
        for image, state in zip(views, states, strict=True):
            writer.frame(image, motion(0, 0), state=state)
        writer.end(True)
    report = read_episodes(tmp_path / "bag", TopicMap(cameras=cameras, state=STATE))
    (episode,) = report.episodes
    assert report.problems == ()
    assert np.array_equal(episode.images, views)
    assert episode.states is not None
    assert np.array_equal(episode.states, states)
    assert episode.cameras == 3


def test_without_asking_the_bag_is_what_it_was(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path / "bag", cameras=[WRIST], state=STATE) as writer:
        writer.begin("r0", "go")
        writer.frame(np.stack([picture(1, 0), picture(2, 99)]), motion(0, 0), state=np.ones(2))
        writer.end(True)
    (episode,) = read_episodes(tmp_path / "bag").episodes
    assert episode.images.shape == (1, 8, 8, 3)
    assert episode.images[0, 0, 0, 0] == 1
    assert episode.states is None
    (only_state,) = read_episodes(tmp_path / "bag", TopicMap(state=STATE)).episodes
    assert only_state.images.shape == (1, 8, 8, 3)
    assert only_state.states is not None


def test_the_newest_image_before_the_main_one_counts(make_tape: MakeTape) -> None:
    tape = make_tape()
    tape.rollout(SECOND, 0)
    for frame in range(3):
        now = SECOND + frame * STEP
        wrist(tape, now - 30_000_000, 10 * frame + 1)
        wrist(tape, now - 10_000_000, 10 * frame + 2)
        # Stamped after the main image, and there before the action: the live node had not seen it yet.
        wrist(tape, now + 10_000_000, 10 * frame + 3)
        tick(tape, frame)
    tape.rollout(2 * SECOND, 1)
    assert shown(read_episodes(tape.close(), TopicMap(cameras=(WRIST,)))) == [2, 12, 22]


def test_a_message_recorded_late_is_still_known_by_its_stamp(make_tape: MakeTape) -> None:
    tape = make_tape()
    tape.rollout(SECOND, 0)
    for frame in range(3):
        now = SECOND + frame * STEP
        wrist(tape, now, frame, time_ns=now + 2 * STEP)
        tick(tape, frame)
    tape.rollout(2 * SECOND, 1)
    assert shown(read_episodes(tape.close(), TopicMap(cameras=(WRIST,)))) == [0, 1, 2]


def test_runs_of_a_simulation_with_the_same_stamps_are_not_mixed(make_tape: MakeTape) -> None:
    """The second run's camera is a bit slower: the first run has messages that are nearer by stamp alone."""
    tape = make_tape()
    for run, lag in enumerate((1_000_000, 20_000_000)):
        start = (1 + 100 * run) * SECOND
        tape.rollout(start, 0, f"r{run}")
        for frame in range(3):
            stamp, at = SECOND + frame * STEP, start + frame * STEP
            wrist(tape, stamp - lag, 10 * run + frame, time_ns=at - lag)
            tick(tape, frame, f"r{run}", at)
        tape.rollout(start + SECOND, 1, f"r{run}")
    report = read_episodes(tape.close(), TopicMap(cameras=(WRIST,)))
    found = {e.rollout_id: [int(v[0, 0, 0]) for v in e.view(1)] for e in report.episodes}
    assert found == {"r0": [0, 1, 2], "r1": [10, 11, 12]}


def test_frames_without_a_recent_view_are_left_out_and_counted(make_tape: MakeTape) -> None:
    tape = make_tape()
    tape.rollout(SECOND, 0)
    joints(tape, SECOND, 0.25, 0.5)
    wrist(tape, SECOND + STEP, 1)
    for frame in range(8):
        tick(tape, frame)
    tape.rollout(2 * SECOND, 1)
    path = tape.close()
    report = read_episodes(path, BOTH)
    (episode,) = report.episodes
    assert episode.actions[:, 0].tolist() == [1, 2, 3, 4, 5]
    assert episode.dropped_frames == 3
    assert (report.count("frames_without_camera"), report.count("frames_without_state")) == (2, 2)
    texts = [problem.message for problem in report.problems]
    assert "2 frames without an image, 0.5 s old at most, of /image_wrist" in texts
    assert "2 frames without a state, 0.5 s old at most, of /joint_states" in texts
    assert episode.states is not None
    assert episode.states.tolist() == [[0.25, 0.5]] * 5
    (patient,) = read_episodes(path, TopicMap(cameras=(WRIST,), state=STATE, stale_after_s=5.0)).episodes
    assert patient.actions[:, 0].tolist() == [1, 2, 3, 4, 5, 6, 7]


def test_cameras_have_one_size_and_states_one_length(make_tape: MakeTape) -> None:
    tape = make_tape()
    tape.rollout(SECOND, 0)
    for frame in range(6):
        wrist(tape, SECOND + frame * STEP, frame, size=16 if frame == 1 else 8)
        values = {2: [0.0], 3: [np.nan, 0.0], 4: []}.get(frame, [1.0, 2.0])
        joints(tape, SECOND + frame * STEP, *values)
        tick(tape, frame)
    tape.rollout(2 * SECOND, 1)
    report = read_episodes(tape.close(), BOTH)
    assert report.episodes[0].actions[:, 0].tolist() == [0, 5]
    counts = {kind: report.count(kind) for kind in ("camera_other_size", "state_other_size", "state_broken")}
    assert counts == {"camera_other_size": 1, "state_other_size": 1, "state_broken": 2}


def test_a_damaged_view_costs_its_frames_alone(make_tape: MakeTape) -> None:
    tape = make_tape()
    tape.rollout(SECOND, 0)
    for frame in range(4):
        stamp = SECOND + frame * STEP
        message: Any = image_message(picture(frame, 99), stamp)
        message.height += frame == 2  # one row more than there are
        tape.sink.add_topic(f"/{WRIST}", IMAGE)
        tape.sink.write(f"/{WRIST}", typestore().serialize_cdr(message, IMAGE), stamp)
        tick(tape, frame)
    tape.rollout(2 * SECOND, 1)
    report = read_episodes(tape.close(), TopicMap(cameras=(WRIST,)))
    assert shown(report) == [0, 1, 3]
    assert report.count("camera_broken") == 1


def test_a_topic_that_is_not_there_or_named_twice(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path / "bag", cameras=[WRIST]) as writer:
        writer.begin("r0", "go")
        writer.frame(np.stack([picture(1, 0), picture(2, 99)]), motion(0, 0))
        writer.end(True)
    for topics, words in (
        (TopicMap(cameras=("image_side",)), "bag has no topic image_side"),
        (TopicMap(state=STATE), "sensor_msgs/msg/JointState"),
        (TopicMap(cameras=(f"/arm/{WRIST}",)), "bag has no topic /arm/image_wrist"),
    ):
        with pytest.raises(UnlearningError, match=words) as error:
            read_episodes(tmp_path / "bag", topics)
        assert error.value.code == ErrorCode.UNLEARNING_BAG_UNREADABLE
    for cameras in ((WRIST, f"/{WRIST}"), ("image",)):
        with pytest.raises(UnlearningError, match="named for two cameras"):
            read_episodes(tmp_path / "bag", TopicMap(cameras=cameras))
    assert len(read_episodes(tmp_path / "bag", TopicMap(cameras=(f"/{WRIST}",))).episodes) == 1


def test_a_camera_whose_name_ends_as_the_main_ones_does(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path / "bag", cameras=["wrist/image"], namespace="arm") as writer:
        writer.begin("r0", "go")
        writer.frame(np.stack([picture(1, 0), picture(2, 99)]), motion(0, 0))
        writer.end(True)
    assert shown(read_episodes(tmp_path / "bag", TopicMap(cameras=("wrist/image",)))) == [2]


def test_the_writer_takes_one_image_of_each_camera(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path / "bag", cameras=[WRIST], state=STATE) as writer:
        writer.begin("r0", "go")
        for image, state in (
            (picture(0, 0), np.zeros(2)),
            (np.stack([picture(0, 0)] * 3), np.zeros(2)),
            (np.stack([picture(0, 0)] * 2), None),
        ):
            with pytest.raises(UnlearningError, match="does not fit the topics"):
                writer.frame(image, motion(0, 0), state=state)


def write(path: Path, size: int = 8, state: int = 2, rollout: str = "r0") -> Path:
    with EpisodeWriter(path, cameras=[WRIST], state=STATE) as writer:
        writer.begin(rollout, "go")
        for frame in range(4):
            views = np.stack([picture(frame, 0, size), picture(frame, 9, size)])
            writer.frame(views, motion(frame, 0), state=np.arange(state) + frame)
        writer.end(True)
    return path


def test_frame_sets_carry_the_states(tmp_path: Path) -> None:
    (episode,) = read_episodes(write(tmp_path / "bag"), BOTH).episodes
    frames = frames_of([whole(episode)])
    assert frames.images.shape == (4, 2, 8, 8, 3)
    assert frames.cameras == 2
    taken = concat([frames.take(np.array([3, 1])), frames.take(np.array([0]))])
    assert taken.states is not None
    assert taken.states.tolist() == [[3, 4], [1, 2], [0, 1]]
    mask = frames.take(np.array([True, False, False, True]))
    assert mask.states is not None
    assert mask.states.tolist() == [[0, 1], [3, 4]]


def test_the_digest_of_frames_without_states_is_what_it_was() -> None:
    """Recorded by the code that knew no states: records of finished edits name these."""
    images = np.arange(2 * 2 * 2 * 3, dtype=np.uint8).reshape(2, 2, 2, 3)
    plain = FrameSet(images, ("a", "b"), np.ones((2, 3), np.float32), np.array(["x", "y"]))
    assert plain.digest() == "f34f9d84b04a4de2c1712a9465d2b8e877e30538aa3a2ad367602bd5b47077c8"
    told = replace(plain, desired=np.zeros((2, 3), np.float32))
    assert told.digest() == "4e871d932f32f7eb07db6fd0d8b05dbf848771dfb9a2d7ed35c6abdf6b45f4ec"
    states = [replace(plain, states=np.full((2, 3), value)) for value in (0.0, 1.0)]
    assert len({plain.digest(), told.digest(), *(frames.digest() for frames in states)}) == 4


def test_episodes_that_do_not_fit_together(tmp_path: Path) -> None:
    bags = [write(tmp_path / "a"), write(tmp_path / "b", state=3, rollout="r1")]
    parts = [whole(episode) for episode in read_many(bags, BOTH).episodes]
    with pytest.raises(UnlearningError, match="states"):
        frames_of(parts)
    plain = [whole(episode) for episode in read_many(bags[1:]).episodes]
    with pytest.raises(UnlearningError, match="cannot be put together"):
        frames_of([parts[0], *plain])
