"""Bags that other programs wrote: every message, its type, its time."""

from __future__ import annotations

import random
import shutil
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from foreign_bags import GRIP, NO_INDEX, Written, grip, messages, text, write_mcap
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from vlaforget_ros.episodes.storage.bags import Bag
from vlaforget_ros.errors import ErrorCode, UnlearningError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

REAL = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "rosbag2"


def content(path: Path) -> Written:
    with Bag(path) as bag:
        found = [(m.topic, m.time_ns, bytes(m.data)) for m in bag.messages(tuple(bag.topics))]
        assert bag.problems == []
    return found


@pytest.mark.parametrize("compression", ["none", "lz4", "zstd"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"enable_crcs": False},
        {"enable_data_crcs": True},
        {"use_statistics": False},
        {"use_summary_offsets": False},
        {"index_types": NO_INDEX},
        {"repeat_channels": False},
        {"repeat_schemas": False},
        {"repeat_channels": False, "repeat_schemas": False, "use_statistics": False, "index_types": NO_INDEX},
        {"profile": ""},
        {"use_chunking": False},
        {"use_chunking": False, "enable_data_crcs": True, "use_statistics": False},
    ],
    ids=lambda options: ",".join(f"{k}={v}" for k, v in options.items()) or "default",
)
def test_profiles_of_the_mcap_library(tmp_path: Path, compression: str, options: dict[str, Any]) -> None:
    written = messages(300)
    path = write_mcap(tmp_path / "a.mcap", written, compression=compression, chunk_size=4096, **options)
    assert content(path) == written
    with Bag(path) as bag:
        assert bag.count(("/grip",)) == 300
        told = [bag.deserialize(m) for m in bag.messages(("/grip",))]
        assert (told[7].at.sec, told[7].force[2], told[7].note) == (7, 7.0, "grip 7")
        if "enable_crcs" not in options:
            assert bag.checked is (options.get("use_chunking", True) or bool(options.get("enable_data_crcs")))


def test_messages_in_disorder_come_by_their_times(tmp_path: Path) -> None:
    written = messages(200)
    mixed = [written[i ^ 7] if i ^ 7 < len(written) else written[i] for i in range(len(written))]
    for number, options in enumerate(
        [{"chunk_size": 300}, {"use_chunking": False}, {"index_types": NO_INDEX}]
    ):
        path = write_mcap(tmp_path / f"{number}.mcap", mixed, **options)
        assert content(path) == sorted(mixed, key=lambda m: m[1])


def test_only_the_first_bytes_or_certain_times(tmp_path: Path) -> None:
    written = [("/words", n, text("x" * 5000 + str(n))) for n in range(50)]
    for number, options in enumerate([{}, {"use_chunking": False}, {"compression": "zstd"}]):
        with Bag(write_mcap(tmp_path / f"{number}.mcap", written, **options)) as bag:
            heads = list(bag.messages(("/words",), heads=("/words",)))
            assert [m.size for m in heads] == [len(data) for _, _, data in written]
            assert [m.time_ns for m in bag.messages(("/words",), at={"/words": {3, 40}})] == [3, 40]


def test_a_file_of_ros_1_is_refused(tmp_path: Path) -> None:
    path = write_mcap(tmp_path / "a.mcap", messages(3), profile="ros1")
    with pytest.raises(UnlearningError) as caught:
        Bag(path)
    assert "profile is ros1" in str(caught.value)


def _record(
    path: Path, plugin: StoragePlugin, version: int = 9, mode: CompressionMode | None = None
) -> Written:
    store = get_typestore(Stores.ROS2_KILTED)
    store.register(get_types_from_msg("builtin_interfaces/Time at\nfloat32[3] force\nstring note", GRIP))
    written = messages(60)
    writer = Writer(path, version=version, storage_plugin=plugin)
    if mode is not None:
        writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        types = {"/grip": GRIP, "/words": "std_msgs/msg/String"}
        connections = {t: writer.add_connection(t, msgtype, typestore=store) for t, msgtype in types.items()}
        for topic, time_ns, data in written:
            writer.write(connections[topic], time_ns, data)
    return written


@pytest.mark.parametrize("plugin", list(StoragePlugin), ids=lambda plugin: plugin.name)
@pytest.mark.parametrize("mode", [None, CompressionMode.FILE, CompressionMode.MESSAGE], ids=str)
def test_compression_of_rosbag2(tmp_path: Path, plugin: StoragePlugin, mode: CompressionMode | None) -> None:
    written = _record(tmp_path / "bag", plugin, mode=mode)
    assert content(tmp_path / "bag") == written
    with Bag(tmp_path / "bag") as bag:
        assert bag.deserialize(next(bag.messages(("/grip",)))).note == "grip 0"
        heads = [bytes(m.data[:8]) for m in bag.messages(("/grip",), heads=("/grip",))]
        assert heads == [data[:8] for topic, _, data in written if topic == "/grip"]


@pytest.mark.parametrize("plugin", list(StoragePlugin), ids=lambda plugin: plugin.name)
@pytest.mark.parametrize("mode", [CompressionMode.FILE, CompressionMode.MESSAGE], ids=str)
def test_compression_without_metadata(tmp_path: Path, plugin: StoragePlugin, mode: CompressionMode) -> None:
    written = _record(tmp_path / "bag", plugin, mode=mode)
    (tmp_path / "bag" / "metadata.yaml").unlink()
    with Bag(tmp_path / "bag") as bag:
        assert [(m.topic, m.time_ns, bytes(m.data)) for m in bag.messages(("/grip", "/words"))] == written
        assert [p.kind for p in bag.problems] == ["bag_damaged"]


@pytest.mark.parametrize("plugin", list(StoragePlugin), ids=lambda plugin: plugin.name)
def test_a_split_bag_is_read_in_the_order_of_its_numbers(tmp_path: Path, plugin: StoragePlugin) -> None:
    folder = tmp_path / "split"
    folder.mkdir()
    for number in range(12):
        _record(tmp_path / f"p{number}", plugin)
        (file,) = [f for f in (tmp_path / f"p{number}").iterdir() if f.suffix in (".mcap", ".db3")]
        shutil.copy(file, folder / f"split_{number}{file.suffix}")
    with Bag(folder) as bag:
        assert bag.count(("/words",)) == 12 * 6
        assert sum(1 for _ in bag.messages(("/grip",))) == 12 * 60
        assert [source.path.stem for source in bag._sources] == [f"split_{n}" for n in range(12)]


@pytest.mark.parametrize("version", [8, 9])
def test_layouts_of_metadata(tmp_path: Path, version: int) -> None:
    for plugin in StoragePlugin:
        path = tmp_path / f"{plugin.name}"
        written = _record(path, plugin, version=version)
        assert content(path) == written


def test_a_type_that_nothing_defines_is_named_with_a_remedy(tmp_path: Path) -> None:
    _record(tmp_path / "bag", StoragePlugin.SQLITE3)
    file = next((tmp_path / "bag").glob("*.db3"))
    with sqlite3.connect(file) as database:
        database.execute("DELETE FROM message_definitions")
    database.close()
    with Bag(tmp_path / "bag") as bag:
        with pytest.raises(UnlearningError) as caught:
            bag.deserialize(next(bag.messages(("/grip",))))
        assert bag.deserialize(next(bag.messages(("/words",)))).data == "number 0"
    assert caught.value.code is ErrorCode.UNLEARNING_BAG_UNREADABLE
    assert GRIP in str(caught.value)
    assert "ros2 bag convert" in caught.value.remedy


def test_another_definition_of_a_standard_type_is_the_one_that_counts(tmp_path: Path) -> None:
    store = get_typestore(Stores.EMPTY)
    store.register(get_types_from_msg("uint8 priority\nstring data", "std_msgs/msg/String"))
    with Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        topic = writer.add_connection("/words", "std_msgs/msg/String", typestore=store)
        message = store.types["std_msgs/msg/String"](5, "hello")
        writer.write(topic, 1, store.serialize_cdr(message, "std_msgs/msg/String"))
    with Bag(tmp_path / "bag") as bag:
        told = bag.deserialize(next(bag.messages(("/words",))))
        assert (told.priority, told.data) == (5, "hello")


def test_a_file_that_was_packed_as_a_whole_and_cut(tmp_path: Path) -> None:
    noise = random.Random(0)
    written = [("/words", n, text(noise.randbytes(500).hex())) for n in range(1000)]
    plain = write_mcap(tmp_path / "a.mcap", written, chunk_size=20_000)
    packed = zstd.compress(plain.read_bytes())
    (tmp_path / "cut.mcap.zstd").write_bytes(packed[: len(packed) * 2 // 3])
    with Bag(tmp_path / "cut.mcap.zstd") as bag:
        found = [(m.topic, m.time_ns, bytes(m.data)) for m in bag.messages(("/words",))]
        assert found == written[: len(found)]
        assert len(found) > 400
        assert "it ends too early" in bag.problems[0].message


REAL_BAGS = sorted(path.parent for path in REAL.glob("*/metadata.yaml"))


@pytest.mark.parametrize("path", REAL_BAGS, ids=lambda path: path.name)
def test_bags_of_the_real_recorder(path: Path) -> None:
    expected = yaml.safe_load((path / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    with Bag(path) as bag:
        counts: dict[str, int] = {}
        for message in bag.messages(tuple(bag.topics)):
            counts[message.topic] = counts.get(message.topic, 0) + 1
            bag.deserialize(message)
        assert bag.problems == []
        assert sum(counts.values()) == expected["message_count"]
        for topic in expected["topics_with_message_count"]:
            name = topic["topic_metadata"]["name"]
            assert counts.get(name, 0) == topic["message_count"] == bag.count((name,))


def test_a_grip_is_what_its_definition_says() -> None:
    store = get_typestore(Stores.ROS2_KILTED)
    store.register(get_types_from_msg("builtin_interfaces/Time at\nfloat32[3] force\nstring note", GRIP))
    told = store.deserialize_cdr(grip(3), GRIP)
    assert store.serialize_cdr(told, GRIP) == grip(3)
