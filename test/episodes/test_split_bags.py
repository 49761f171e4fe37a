"""Split and compressed bags: one folder for every reader, as the real rosbag2 lays it out."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from mcap.reader import make_reader
from mcap.records import Chunk
from mcap.stream_reader import StreamReader
from rosbags.rosbag2 import Reader

from vlaforget_ros.episodes import BagSink, read_episodes
from vlaforget_ros.episodes.messages import JOINT_STATE, STRING, typestore
from vlaforget_ros.episodes.storage.bags import Bag
from vlaforget_ros.errors import ErrorCode, UnlearningError

from .conftest import SECOND, STEP, Tape, motion, picture

FRAMES = 30
KINDS = [("mcap", "none"), ("mcap", "zstd"), ("sqlite3", "none")]
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "rosbag2"


def text(value: str) -> bytes:
    return bytes(typestore().serialize_cdr(typestore().types[STRING](value), STRING))


def tape(path: Path, **options: Any) -> Path:
    """One rollout of 3 s at 10 Hz with an instruction before it."""
    made = Tape(path, ())
    made.sink.close()
    shutil.rmtree(path)
    made.sink = BagSink(path, **options)
    for topic, msgtype in Tape.TYPES.items():
        made.sink.add_topic(topic, msgtype)
    made.sink.add_topic("/instruction", STRING)
    made.sink.write("/instruction", text("go"), 0)
    made.rollout(1, 0)
    for tick in range(FRAMES):
        made.image(SECOND + tick * STEP, picture(tick, 0, size=64))
        made.action(SECOND + tick * STEP, motion(tick, 0))
        if tick == 20:
            made.violation(SECOND + tick * STEP + 2)
    made.rollout(SECOND + FRAMES * STEP, 1)
    return made.close()


def messages(path: Path) -> list[tuple[str, int, bytes]]:
    with Reader(path) as reader:
        return [(c.topic, t, bytes(data)) for c, t, data in reader.messages()]


@pytest.mark.parametrize(("storage", "compression"), KINDS)
@pytest.mark.parametrize("limit", [{"split_s": 1.0}, {"split_mb": 0.1}])
def test_a_split_bag_is_read_as_one(
    tmp_path: Path, storage: str, compression: str, limit: dict[str, float]
) -> None:
    options = {"storage": storage, "compression": compression}
    whole = tape(tmp_path / "whole", **options)
    split = tape(tmp_path / "split", **options, **limit)
    names = sorted(p.name for p in split.glob("split_*"))
    assert len(names) > 2
    assert names[0] == "split_0." + {"mcap": "mcap", "sqlite3": "db3"}[storage]
    once = [m for m in messages(split) if m[0] not in ("/rollout", "/instruction")]
    assert once == [m for m in messages(whole) if m[0] not in ("/rollout", "/instruction")]
    (episode,) = read_episodes(split).episodes
    (expected,) = read_episodes(whole).episodes
    assert [p.kind for p in read_episodes(split).problems] == [p.kind for p in read_episodes(whole).problems]
    assert np.array_equal(episode.images, expected.images)
    assert np.array_equal(episode.actions, expected.actions)
    assert [v.rule for v in episode.violations] == ["speed/ee"]
    with Bag(split) as bag:
        assert bag.problems == []


def test_files_end_by_log_time(tmp_path: Path) -> None:
    bag = tape(tmp_path / "bag", split_s=1.0)
    for file in sorted(bag.glob("*.mcap")):
        with Reader(file) as reader:
            assert reader.duration <= SECOND


def test_files_end_by_size_and_overshoot_by_one_message(tmp_path: Path) -> None:
    bag = tape(tmp_path / "bag", split_mb=0.1)
    sizes = [file.stat().st_size for file in sorted(bag.glob("*.mcap"))]
    assert len(sizes) > 2
    # The definitions of the topics at the end of each file come on top.
    assert all(100_000 <= size < 100_000 + 30_000 for size in sizes[:-1])


def test_a_file_alone_says_which_rollout_runs_and_what_it_was_told(tmp_path: Path) -> None:
    bag = tape(tmp_path / "bag", split_s=1.0)
    alone = read_episodes(bag / "bag_1.mcap")
    (episode,) = alone.episodes
    assert (episode.rollout_id, episode.instruction) == ("r0", "go")
    assert len(episode) >= 9
    assert [p.kind for p in alone.problems if p.kind == "start_missing"] == []
    first = messages(bag / "bag_1.mcap")
    assert {topic for topic, _, _ in first[:2]} == {"/instruction", "/rollout"}
    # Logged at the file's first moment: `ros2 bag play` does not wait for what was long ago.
    assert {time for _, time, _ in first[:2]} == {first[2][1]}


def test_what_was_flushed_of_a_split_bag_survives_a_kill(tmp_path: Path) -> None:
    sink = BagSink(tmp_path / "live", split_s=1.0, compression="zstd")
    sink.add_topic("/instruction", STRING)
    for tick in range(35):
        sink.write("/instruction", text(str(tick)), tick * STEP)
    sink.flush()
    shutil.copytree(tmp_path / "live", tmp_path / "killed")
    sink.close()
    assert not (tmp_path / "killed" / "metadata.yaml").exists()
    with Bag(tmp_path / "killed") as bag:
        found = [bag.deserialize(m).data for m in bag.messages(["/instruction"])]
        assert [p.kind for p in bag.problems] == ["bag_damaged"]
    # The newest instruction is said again in each further file.
    assert sorted(set(found), key=int) == [str(tick) for tick in range(35)]
    assert sink.repeats == len(found) - 35 == 3


def nested(value: Any) -> Any:
    """The kinds of values, with one entry for a list."""
    if isinstance(value, dict):
        return {key: nested(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [nested(value[0])] if value else []
    return type(value).__name__


REAL_V9 = {
    "rosbag2_bagfile_information": {
        "version": "int",
        "storage_identifier": "str",
        "duration": {"nanoseconds": "int"},
        "starting_time": {"nanoseconds_since_epoch": "int"},
        "message_count": "int",
        "topics_with_message_count": [
            {
                "topic_metadata": {
                    "name": "str",
                    "type": "str",
                    "serialization_format": "str",
                    "offered_qos_profiles": [
                        {
                            "history": "str",
                            "depth": "int",
                            "reliability": "str",
                            "durability": "str",
                            "deadline": {"sec": "int", "nsec": "int"},
                            "lifespan": {"sec": "int", "nsec": "int"},
                            "liveliness": "str",
                            "liveliness_lease_duration": {"sec": "int", "nsec": "int"},
                            "avoid_ros_namespace_conventions": "bool",
                        }
                    ],
                    "type_description_hash": "str",
                },
                "message_count": "int",
            }
        ],
        "compression_format": "str",
        "compression_mode": "str",
        "relative_file_paths": ["str"],
        "files": [
            {
                "path": "str",
                "starting_time": {"nanoseconds_since_epoch": "int"},
                "duration": {"nanoseconds": "int"},
                "message_count": "int",
            }
        ],
        "custom_data": "NoneType",
        "ros_distro": "str",
    }
}
"""What rosbag2 writes since version 9 of its metadata (rosbag2_storage, yaml.hpp)."""


def test_the_metadata_are_those_of_the_real_recorder(tmp_path: Path) -> None:
    bag = tape(tmp_path / "bag", split_s=1.0, compression="zstd")
    info = yaml.safe_load((bag / "metadata.yaml").read_text())
    assert nested(info) == REAL_V9
    told = info["rosbag2_bagfile_information"]
    files = told["files"]
    assert (
        [f["path"] for f in files]
        == told["relative_file_paths"]
        == [f"bag_{n}.mcap" for n in range(len(files))]
    )
    assert sum(f["message_count"] for f in files) == told["message_count"]
    assert sum(t["message_count"] for t in told["topics_with_message_count"]) == told["message_count"]
    for file in files:
        with Reader(bag / file["path"]) as reader:
            assert reader.message_count == file["message_count"]
            assert reader.start_time == file["starting_time"]["nanoseconds_since_epoch"]
            assert reader.duration == file["duration"]["nanoseconds"] + 1
    ends = [f["starting_time"]["nanoseconds_since_epoch"] + f["duration"]["nanoseconds"] for f in files]
    start = told["starting_time"]["nanoseconds_since_epoch"]
    assert start == files[0]["starting_time"]["nanoseconds_since_epoch"]
    assert told["duration"]["nanoseconds"] == max(ends) - start


@pytest.mark.parametrize("name", [path.name for path in sorted(SHARED.glob("*")) if path.is_dir()])
def test_nothing_a_real_bag_says_is_missing(tmp_path: Path, name: str) -> None:
    real = nested(yaml.safe_load((SHARED / name / "metadata.yaml").read_text()))[
        "rosbag2_bagfile_information"
    ]
    ours = REAL_V9["rosbag2_bagfile_information"]
    for key, kind in real.items():
        if key != "topics_with_message_count":
            assert ours[key] == kind, key


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_the_reference_reader_of_mcap_accepts_every_file(tmp_path: Path, compression: str) -> None:
    bag = tape(tmp_path / "bag", split_s=1.0, compression=compression)
    seen = []
    for file in sorted(bag.glob("*.mcap"), key=lambda path: int(path.stem.rpartition("_")[2])):
        with file.open("rb") as stream:
            # Checks the checksums of chunks, and index against content.
            reader = make_reader(stream, validate_crcs=True)
            summary = reader.get_summary()
            assert summary is not None
            assert summary.statistics is not None
            found = [(c.topic, m.log_time, m.data) for _, c, m in reader.iter_messages(log_time_order=False)]
            assert len(found) == summary.statistics.message_count
            seen += found
        with file.open("rb") as stream:
            chunks = [
                r
                for r in StreamReader(stream, emit_chunks=True, validate_crcs=True).records
                if isinstance(r, Chunk)
            ]
            assert chunks
            assert all(chunk.uncompressed_crc for chunk in chunks)
            assert {chunk.compression for chunk in chunks} == {"zstd" if compression == "zstd" else ""}
    assert seen == messages(bag)


@settings(max_examples=12, deadline=None)
@given(
    gaps=st.lists(st.integers(0, 3 * SECOND // 2), min_size=1, max_size=20),
    split_s=st.sampled_from([0.0, 0.5, 1.0]),
    split_mb=st.sampled_from([0.0, 0.002]),
)
def test_no_message_is_lost_or_said_twice_whatever_the_limits(
    tmp_path_factory: pytest.TempPathFactory, gaps: list[int], split_s: float, split_mb: float
) -> None:
    path = tmp_path_factory.mktemp("bags") / "bag"
    now, expected = 0, []
    with BagSink(path, split_s=split_s, split_mb=split_mb) as sink:
        sink.add_topic("/joint_states", JOINT_STATE)
        for number, gap in enumerate(gaps):
            now += gap
            expected.append(("/joint_states", now, text(str(number))))
            sink.write(*expected[-1][:1], expected[-1][2], now)
    assert messages(path) == expected
    assert len(list(path.glob("*.mcap"))) == len(sink.files)


def test_sqlite3_is_not_compressed(tmp_path: Path) -> None:
    with pytest.raises(UnlearningError, match="set compression to none") as caught:
        BagSink(tmp_path / "bag", storage="sqlite3", compression="zstd")
    assert caught.value.code is ErrorCode.UNLEARNING_BAG_UNWRITABLE
    assert not (tmp_path / "bag").exists()
