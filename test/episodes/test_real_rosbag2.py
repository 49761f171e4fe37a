"""What the real rosbag2 wrote is read as our own; what it needs to mend a killed bag of ours is in it."""

from __future__ import annotations

import re
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from mcap.reader import make_reader

from vlaforget_ros.episodes import BagSink, EpisodeWriter, read_episodes
from vlaforget_ros.episodes.catalogue.checks import check_bag
from vlaforget_ros.episodes.messages import STRING, typestore
from vlaforget_ros.episodes.storage.bags import Bag
from vlaforget_ros.episodes.storage.storages import zstd

from .conftest import SECOND, picture, write_rollouts

WRITTEN = Path(__file__).resolve().parents[1] / "data" / "rosbag2_mcap"
BAGS = sorted(path.name for path in WRITTEN.iterdir() if path.is_dir())
# rosbag2_cpp, reindexer.cpp: the files it looks for.
REINDEXED = re.compile(r".+_(\d+)\.([a-zA-Z0-9])+")
# mcap C++, reader.inl: magic number and header, footer and magic number. A shorter file stops `ros2 bag reindex`.
SHORTEST = 25 + 37
KINDS = [("mcap", "none"), ("mcap", "zstd"), ("sqlite3", "none")]


def content(path: Path) -> list[tuple[str, int, bytes]]:
    with Bag(path) as bag:
        found = [(m.topic, m.time_ns, bytes(m.data)) for m in bag.messages(tuple(bag.topics))]
        assert bag.problems == []
    return found


def texts(sink: BagSink, count: int, step_ns: int) -> Iterator[None]:
    store = typestore()
    sink.add_topic("/instruction", STRING)
    for number in range(count):
        text = store.serialize_cdr(store.types[STRING](str(number)), STRING)
        sink.write("/instruction", text, number * step_ns)
        yield


def test_the_bags_are_there() -> None:
    assert BAGS == ["fastwrite", "zstd_files", "zstd_messages", "zstd_small"]


@pytest.mark.parametrize("name", BAGS)
def test_a_bag_of_the_real_writer_has_every_message(tmp_path: Path, name: str) -> None:
    with EpisodeWriter(tmp_path / "ours") as writer:
        write_rollouts(writer)
    assert content(WRITTEN / name) == content(tmp_path / "ours")


@pytest.mark.parametrize("name", BAGS)
def test_its_episodes_are_whole(name: str) -> None:
    report = read_episodes(WRITTEN / name)
    assert report.problems == ()
    assert [(e.rollout_id, len(e), e.success) for e in report.episodes] == [
        ("r0", 12, True),
        ("r1", 12, False),
    ]
    for number, episode in enumerate(report.episodes):
        assert np.array_equal(episode.images, [picture(frame, number) for frame in range(12)])
        assert np.array_equal(episode.actions, [[frame, number] for frame in range(12)])
    assert [v.rule for v in report.episodes[1].violations] == ["keep_out/hand_zone"]
    assert check_bag(WRITTEN / name).findings == ()


def test_packed_and_unpacked_files_side_by_side_count_once(tmp_path: Path) -> None:
    # `ros2 bag play` unpacks beside; without metadata.yaml all files of a folder are looked at.
    bag = tmp_path / "zstd_files"
    shutil.copytree(WRITTEN / "zstd_files", bag)
    (bag / "metadata.yaml").unlink()
    count = len(content(WRITTEN / "zstd_files"))
    for file in sorted(bag.glob("*.zstd")):
        with Bag(bag) as opened:
            assert sum(1 for _ in opened.messages(tuple(opened.topics))) == count
        unpack(file)
    with Bag(bag) as opened:
        assert sum(1 for _ in opened.messages(tuple(opened.topics))) == count


def unpack(file: Path) -> None:
    file.with_suffix("").write_bytes(zstd.decompress(file.read_bytes()))


@pytest.mark.parametrize(("storage", "compression"), KINDS)
@pytest.mark.parametrize("split_s", [0.0, 2.0])
def test_reindex_finds_every_file(tmp_path: Path, storage: str, compression: str, split_s: float) -> None:
    with BagSink(tmp_path / "bag", storage=storage, compression=compression, split_s=split_s) as sink:
        for _ in texts(sink, 5, SECOND):
            pass
        assert len(sink.files) == (3 if split_s else 1)
    found = [REINDEXED.fullmatch(name) for name in sink.files]
    assert [int(match[1]) for match in found if match] == list(range(len(sink.files)))


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_a_kill_right_after_a_split_leaves_no_file_that_stops_reindex(
    tmp_path: Path, compression: str
) -> None:
    with BagSink(tmp_path / "bag", compression=compression, split_s=1.0) as sink:
        for _ in texts(sink, 6, SECOND):
            sizes = [(tmp_path / "bag" / name).stat().st_size for name in sink.files]
            # Nothing is lost with the very first file before its first flush: the bag is empty then.
            assert all(size >= SHORTEST for size in sizes[1:])
        assert len(sink.files) == 6


def test_a_file_names_the_hashes_of_its_types(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path / "bag") as writer:
        write_rollouts(writer, rollouts=1)
    with (tmp_path / "bag" / "bag_0.mcap").open("rb") as stream:
        summary = make_reader(stream).get_summary()
    assert summary is not None
    hashes = {c.topic: c.metadata["topic_type_hash"] for c in summary.channels.values()}
    info = yaml.safe_load((tmp_path / "bag" / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    told = [topic["topic_metadata"] for topic in info["topics_with_message_count"]]
    assert hashes == {topic["name"]: topic["type_description_hash"] for topic in told}
    real = yaml.safe_load((WRITTEN / "fastwrite" / "metadata.yaml").read_text())[
        "rosbag2_bagfile_information"
    ]
    for topic in (entry["topic_metadata"] for entry in real["topics_with_message_count"]):
        assert hashes.get(topic["name"], topic["type_description_hash"]) == topic["type_description_hash"]


@pytest.mark.parametrize("distro", ["jazzy", None])
def test_the_distribution_is_that_of_the_recorder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, distro: str | None
) -> None:
    monkeypatch.delenv("ROS_DISTRO", raising=False)
    if distro:
        monkeypatch.setenv("ROS_DISTRO", distro)
    for storage in ("mcap", "sqlite3"):
        with BagSink(tmp_path / storage, storage=storage) as sink:
            for _ in texts(sink, 1, SECOND):
                pass
        info = yaml.safe_load((tmp_path / storage / "metadata.yaml").read_text())
        assert info["rosbag2_bagfile_information"]["ros_distro"] == (distro or "")
    database = sqlite3.connect(tmp_path / "sqlite3" / "sqlite3_0.db3")
    assert database.execute("SELECT ros_distro FROM schema").fetchall() == [(distro or "",)]
    database.close()
