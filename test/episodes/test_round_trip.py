"""What is written is what is read: storages, encodings, namespaces, several bags."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from rosbags.rosbag2 import Reader

from vlaforget_ros.episodes import EpisodeWriter, TopicMap, read_episodes, read_many
from vlaforget_ros.episodes.messages import typestore
from vlaforget_ros.errors import ErrorCode, UnlearningError

from .conftest import DIGEST, SECOND, STEP, motion, picture, write_rollouts


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("compressed", ["", "png"])
def test_every_value_comes_back(tmp_path: Path, storage: str, compressed: str) -> None:
    with EpisodeWriter(tmp_path / "bag", storage=storage, compressed=compressed, namespace="arm_1") as writer:
        write_rollouts(writer)
    report = read_episodes(tmp_path / "bag")
    assert report.problems == ()
    first, second = report.episodes
    assert (first.rollout_id, second.rollout_id) == ("r0", "r1")
    assert (first.success, first.phase, first.violations) == (True, "SUCCEEDED", ())
    assert (second.success, second.phase, second.adapter_digest) == (False, "FAILED", DIGEST)
    assert first.instruction == "open the faucet"
    for number, episode in enumerate(report.episodes):
        assert episode.images.dtype == np.uint8
        assert episode.actions.dtype == np.float32
        assert np.array_equal(episode.images, np.stack([picture(k, number) for k in range(12)]))
        assert np.array_equal(episode.actions, np.stack([motion(k, number) for k in range(12)]))
        assert set(np.diff(episode.stamps_ns)) == {STEP}
        assert episode.dropped_frames == 0
        assert episode.source == str(tmp_path / "bag")
    (broken,) = second.violations
    assert (broken.rule, broken.severity, broken.value, broken.unit) == (
        "keep_out/hand_zone",
        "WARN",
        0.1,
        "m",
    )
    assert broken.stamp_ns == second.stamps_ns[-1]


def test_jpeg_is_close(tmp_path: Path) -> None:
    ramp = np.linspace(0, 255, 64 * 64).reshape(64, 64).astype(np.uint8)
    image = np.stack([ramp, ramp.T, 255 - ramp], axis=-1)
    with EpisodeWriter(tmp_path / "bag", compressed="jpeg") as writer:
        writer.begin("r0", "go")
        writer.frame(image, np.zeros(4))
        writer.end(True)
    (episode,) = read_episodes(tmp_path / "bag").episodes
    assert np.abs(episode.images[0].astype(int) - image).mean() < 3


def test_a_single_storage_file_is_a_bag(small_bag: Path) -> None:
    assert len(read_episodes(small_bag / "bag_0.mcap").episodes) == 2


def test_metadata_is_what_rosbag2_writes(small_bag: Path) -> None:
    info = yaml.safe_load((small_bag / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert info["storage_identifier"] == "mcap"
    assert info["relative_file_paths"] == ["bag_0.mcap"]
    topics = {t["topic_metadata"]["name"]: t for t in info["topics_with_message_count"]}
    assert topics["/image"]["message_count"] == 24
    assert topics["/action"]["topic_metadata"]["type"] == "vlaforget_ros/msg/PolicyAction"
    hashed = typestore().hash_rihs01("vlaforget_ros/msg/PolicyAction")
    assert topics["/action"]["topic_metadata"]["type_description_hash"] == hashed
    (qos,) = topics["/rollout"]["topic_metadata"]["offered_qos_profiles"]
    assert (qos["durability"], qos["reliability"], qos["depth"]) == ("transient_local", "reliable", 1)
    assert info["message_count"] == sum(t["message_count"] for t in topics.values())


def test_definitions_travel_with_the_bag(small_bag: Path) -> None:
    with Reader(small_bag) as reader:
        action = next(c for c in reader.connections if c.topic == "/action")
        assert "builtin_interfaces/Time observation_stamp" in action.msgdef.data


def test_several_robots_in_one_bag_need_a_namespace(tmp_path: Path, make_tape) -> None:
    tape = make_tape(topics=())
    tape.TYPES = {f"/{arm}{t}": m for arm in ("left", "right") for t, m in type(tape).TYPES.items()}
    for topic, msgtype in tape.TYPES.items():
        tape.sink.add_topic(topic, msgtype)
    tape.put("/left/rollout", 1, tape._header(1), "r0", "go", "", 0, 0, 0)
    path = tape.close()
    with pytest.raises(UnlearningError, match="left, right") as caught:
        read_episodes(path)
    assert caught.value.code is ErrorCode.UNLEARNING_BAG_UNREADABLE
    assert read_episodes(path, TopicMap(namespace="left")).count("episode_empty") == 1
    assert read_episodes(path, TopicMap(namespace="/right/")).problems == ()


def test_many_bags_are_read_in_order_and_failures_reported(tmp_path: Path, small_bag: Path) -> None:
    with EpisodeWriter(tmp_path / "other") as writer:
        writer.begin("x", "close the faucet")
        writer.frame(picture(0, 0), motion(0, 0))
        writer.end(None)
    report = read_many([small_bag, tmp_path / "nowhere", tmp_path / "other"])
    assert [e.rollout_id for e in report.episodes] == ["r0", "r1", "x"]
    assert report.episodes[2].phase == "ABORTED"
    assert report.episodes[2].success is None
    (problem,) = report.problems
    assert problem.kind == "bag_unreadable"
    assert problem.source == str(tmp_path / "nowhere")
    assert "301" in problem.message


def test_many_bags_none_readable_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UnlearningError) as caught:
        read_many([tmp_path / "a", tmp_path / "b"])
    assert caught.value.code is ErrorCode.UNLEARNING_BAG_UNREADABLE


def test_a_rollout_in_two_bags_counts_once(tmp_path: Path, small_bag: Path) -> None:
    with EpisodeWriter(tmp_path / "longer") as writer:
        write_rollouts(writer, rollouts=1, frames=30)
    report = read_many([small_bag, tmp_path / "longer"])
    assert [(e.rollout_id, len(e)) for e in report.episodes] == [("r0", 30), ("r1", 12)]
    assert report.count("rollout_repeated") == 1


def test_stamps_must_grow(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path / "bag") as writer:
        writer.begin("r0", "go")
        writer.frame(picture(0, 0), motion(0, 0), stamp_ns=5 * SECOND)
        with pytest.raises(UnlearningError, match="stamps do not grow"):
            writer.frame(picture(1, 0), motion(1, 0), stamp_ns=5 * SECOND)


def test_calls_out_of_order_are_refused(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path / "bag") as writer:
        with pytest.raises(UnlearningError, match="no rollout is running"):
            writer.frame(picture(0, 0), motion(0, 0))
        writer.begin("r0", "go")
        with pytest.raises(UnlearningError, match="was not ended"):
            writer.begin("r1", "go")
        with pytest.raises(UnlearningError, match="unknown phase"):
            writer.end(True, "DONE")
