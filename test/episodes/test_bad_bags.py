"""Damaged, foreign or incomplete recordings: what is good is read, the rest has a name and a number."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from vlaforget_ros.episodes import EpisodeWriter, TopicMap, read_episodes
from vlaforget_ros.episodes.messages import message_folder, typestore
from vlaforget_ros.errors import ErrorCode, UnlearningError

from .conftest import SECOND, STEP, motion, picture, write_rollouts


def refused(path: Path, *texts: str, topics: TopicMap | None = None) -> UnlearningError:
    with pytest.raises(UnlearningError) as caught:
        read_episodes(path, topics)
    assert caught.value.code is ErrorCode.UNLEARNING_BAG_UNREADABLE
    assert caught.value.value
    assert caught.value.limit
    assert caught.value.remedy
    for text in texts:
        assert text in str(caught.value)
    return caught.value


def test_missing_bag(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "does not exist", "nowhere")


@pytest.mark.parametrize("name", ["empty_folder", "text.txt", "empty.mcap", "noise.mcap", "noise.db3"])
def test_what_is_no_bag(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "empty_folder":
        path.mkdir()
    else:
        noise = np.random.default_rng(0).integers(0, 256, 5000, dtype=np.uint8).tobytes()
        path.write_bytes(b"" if name == "empty.mcap" else noise)
    refused(path, "cannot be read")


@pytest.mark.parametrize(
    "text", ["{", "rosbag2_bagfile_information: 3", "rosbag2_bagfile_information: {version: 99}"]
)
def test_wrong_metadata_do_not_hide_good_files(small_bag: Path, text: str) -> None:
    (small_bag / "metadata.yaml").write_text(text)
    report = read_episodes(small_bag)
    assert [len(e) for e in report.episodes] == [12, 12]
    assert report.count("bag_damaged") == 1


def test_metadata_without_files(small_bag: Path) -> None:
    (small_bag / "bag_0.mcap").unlink()
    refused(small_bag, "missing")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An mcap of three rollouts in three chunks, closed properly."""
    path = tmp_path_factory.mktemp("whole") / "bag"
    with EpisodeWriter(path) as writer:
        for number in range(3):
            write_rollouts(writer, rollouts=1, frames=10, size=32, first=number)
            writer.flush()
    return path / "bag_0.mcap"


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0.1, 0.999))
def test_an_mcap_cut_anywhere_gives_its_beginning(whole: Path, tmp_path: Path, share: float) -> None:
    data = whole.read_bytes()
    path = tmp_path / "cut.mcap"
    path.write_bytes(data[: int(share * len(data))])
    report = read_episodes(path)
    assert report.count("bag_damaged") == 1
    lengths = [len(episode) for episode in report.episodes]
    assert lengths[:-1] == [10] * (len(lengths) - 1)
    for episode in report.episodes:
        frames = list(range(len(episode)))
        assert episode.actions[:, 0].tolist() == frames
        assert episode.images[:, 0, 0, 0].tolist() == frames
    assert len(lengths) == 3 or share < 0.9


@pytest.mark.parametrize("size", [0, 1, 8, 20, 60])
def test_an_mcap_cut_in_its_first_record_is_refused(whole: Path, tmp_path: Path, size: int) -> None:
    (tmp_path / "cut.mcap").write_bytes(whole.read_bytes()[:size])
    refused(tmp_path / "cut.mcap", "cannot be read")


def test_a_killed_recorder_loses_only_the_rest(small_bag: Path) -> None:
    file = small_bag / "bag_0.mcap"
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 5])
    (small_bag / "metadata.yaml").unlink()
    report = read_episodes(small_bag)
    (first, *_) = report.episodes
    assert len(first) >= 5
    assert first.phase == report.episodes[-1].phase == "ABORTED" or first.phase == "SUCCEEDED"
    assert report.count("end_missing") == 1
    (problem,) = [p for p in report.problems if p.kind == "bag_damaged"]
    assert "was not closed" in problem.message


def test_a_lost_footer_is_survived(whole: Path, tmp_path: Path) -> None:
    # The data lie in front, the index behind: without its last eight bytes the file is read from the front.
    path = tmp_path / "flipped.mcap"
    path.write_bytes(whole.read_bytes()[:-8] + b"\x00" * 8)
    report = read_episodes(path)
    assert [len(episode) for episode in report.episodes] == [10, 10, 10]
    assert report.count("bag_damaged") == 1


def test_a_damaged_chunk_costs_its_own_rollout_only(whole: Path, tmp_path: Path) -> None:
    data = bytearray(whole.read_bytes())
    middle = data.index(b"r1\x00")  # in the second chunk, near its head, which goes with it
    data[middle - 400 : middle + 400] = b"\xff" * 800
    path = tmp_path / "damaged.mcap"
    path.write_bytes(bytes(data))
    report = read_episodes(path)
    assert [(e.rollout_id, len(e)) for e in report.episodes] == [("r0", 10), ("r2", 10)]
    # The index is sound and says how many there were: the rollout's 34, and its violation.
    assert [(p.kind, p.count) for p in report.problems] == [("messages_lost", 35)]


def test_a_truncated_database(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path / "bag", storage="sqlite3") as writer:
        write_rollouts(writer, frames=40, size=32)
    file = tmp_path / "bag" / "bag_0.db3"
    file.write_bytes(file.read_bytes()[:5000])
    refused(tmp_path / "bag", "cannot be read")


def test_one_damaged_part_of_a_split_recording(tmp_path: Path) -> None:
    for number in range(2):
        with EpisodeWriter(tmp_path / f"part_{number}", start_ns=(1 + 100 * number) * SECOND) as writer:
            writer.begin(f"r{number}", "go")
            for frame in range(10):
                writer.frame(picture(frame, number), motion(frame, number))
            writer.end(True)
    folder = tmp_path / "split"
    folder.mkdir()
    for number in range(2):
        shutil.copy(tmp_path / f"part_{number}" / f"part_{number}_0.mcap", folder / f"split_{number}.mcap")
    last = folder / "split_1.mcap"
    last.write_bytes(last.read_bytes()[:4000])
    report = read_episodes(folder)
    assert len(report.episodes[0]) == 10
    assert "split_1.mcap: it was not closed" in report.problems[0].message


def test_missing_topics_are_named_with_what_was_found(tmp_path: Path, make_tape) -> None:
    tape = make_tape(topics=("/image", "/rollout", "/outcome"))
    tape.rollout(0, 0)
    error = refused(tape.close(), "no action topic", ".../action (vlaforget_ros/msg/PolicyAction)")
    assert "/image (sensor_msgs/msg/Image)" in str(error.value)


def test_a_topic_of_the_wrong_type_is_not_taken(tmp_path: Path) -> None:
    with Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        for topic in ("/image", "/action", "/rollout"):
            writer.add_connection(topic, "std_msgs/msg/String", typestore=typestore())
    refused(tmp_path / "bag", "no rollout topic", "/rollout (std_msgs/msg/String)")


def test_a_namespace_that_is_not_there(small_bag: Path) -> None:
    refused(small_bag, "/left/rollout", topics=TopicMap(namespace="left"))


def test_other_topic_names(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path / "bag", namespace="cell/camera") as writer:
        write_rollouts(writer, rollouts=1)
    assert len(read_episodes(tmp_path / "bag", TopicMap(image="camera/image")).episodes) == 1
    refused(tmp_path / "bag", "wrist/image", topics=TopicMap(image="wrist/image"))


def _bag_with_definition(path: Path, edit) -> Path:
    """A bag whose recorder had another PolicyAction.msg."""
    store = get_typestore(Stores.ROS2_KILTED)
    for name in ("PolicyAction", "Rollout"):
        text = (message_folder() / f"{name}.msg").read_text()
        text = edit(text) if name == "PolicyAction" else text
        store.register(get_types_from_msg(text, f"vlaforget_ros/msg/{name}"))
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        writer.add_connection("/image", "sensor_msgs/msg/Image", typestore=store)
        writer.add_connection("/rollout", "vlaforget_ros/msg/Rollout", typestore=store)
        action = writer.add_connection("/action", "vlaforget_ros/msg/PolicyAction", typestore=store)
        make = store.types["vlaforget_ros/msg/PolicyAction"]
        time = store.types["builtin_interfaces/msg/Time"](1, 0)
        values = {
            "header": store.types["std_msgs/msg/Header"](time, ""),
            "observation_stamp": time,
            "action": np.zeros(4, np.float32),
            "speed_scale": 1.0,
            "inference_ms": 0.0,
        }
        fields = [f[0] for f in store.fielddefs["vlaforget_ros/msg/PolicyAction"][1]]
        counts = ("step", "fault", "priority")
        message = make(*(values.get(name, 0 if name in counts else "r0") for name in fields))
        writer.write(action, 1, store.serialize_cdr(message, "vlaforget_ros/msg/PolicyAction"))
    return path


def test_a_later_definition_with_more_fields_is_read_by_it(tmp_path: Path) -> None:
    path = _bag_with_definition(tmp_path / "bag", lambda text: "uint8 priority\n" + text)
    assert read_episodes(path).count("rollout_unknown") == 1  # its one action was understood


def test_an_older_definition_without_a_needed_field_is_refused(tmp_path: Path) -> None:
    path = _bag_with_definition(
        tmp_path / "bag", lambda text: "\n".join(s for s in text.split("\n") if "observation_stamp" not in s)
    )
    refused(path, "another definition of vlaforget_ros/msg/PolicyAction", "observation_stamp")


def test_an_older_definition_without_a_field_that_nobody_reads_is_read_by_it(tmp_path: Path) -> None:
    path = _bag_with_definition(
        tmp_path / "bag", lambda text: "\n".join(s for s in text.split("\n") if " speed_scale " not in s)
    )
    assert read_episodes(path).count("rollout_unknown") == 1  # its one action was understood


def test_messages_that_cannot_be_deserialized_are_counted(make_tape) -> None:
    tape = make_tape()
    tape.rollout(0, 0)
    for tick in range(3):
        tape.image(SECOND + tick * STEP, picture(tick, 0))
        tape.action(SECOND + tick * STEP, motion(tick, 0))
    tape.sink.write("/action", b"\x00\x01\x00\x00short", 3 * SECOND)
    tape.sink.write("/image", b"\x00", 3 * SECOND)
    report = read_episodes(tape.close())
    assert report.count("messages_broken") == 1
    assert len(report.episodes[0]) == 3


def test_a_broken_image_costs_its_frame_only(make_tape) -> None:
    tape = make_tape()
    tape.rollout(0, 0)
    for tick in range(3):
        pixels = picture(tick, 0)
        tape.image(SECOND + tick * STEP, pixels if tick != 1 else np.zeros((0, 8, 3), np.uint8))
        tape.action(SECOND + tick * STEP, motion(tick, 0))
    report = read_episodes(tape.close())
    assert report.episodes[0].actions[:, 0].tolist() == [0, 2]
    assert report.count("images_broken") == 1
