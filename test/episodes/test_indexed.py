"""Reading by the index of chunks gives what rosbags gives, in the same order, and no more than was asked for."""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcap.writer import CompressionType, Writer
from rosbags.rosbag2 import Reader

from vlaforget_ros.episodes.storage.bags import Bag

Event = tuple[int, int, int]  # topic, log time, bytes
TOPICS = ("/a", "/b", "/c")
EVENTS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 30), st.sampled_from([5, 40, 700, 6000])),
    min_size=1,
    max_size=40,
)


def write(path: Path, events: Sequence[Event], chunk: int = 2000, **options: Any) -> Path:
    """Messages numbered in the order of the file; small chunks whose times overlap."""
    with path.open("wb") as file:
        writer = Writer(file, chunk_size=chunk, **options)
        writer.start(profile="ros2", library="test")
        schema = writer.register_schema("std_msgs/msg/String", "ros2msg", b"string data")
        channels = [writer.register_channel(topic, "cdr", schema) for topic in TOPICS]
        for number, (topic, time_ns, size) in enumerate(events):
            data = struct.pack("<I", number) + os.urandom(size)
            writer.add_message(channels[topic], log_time=time_ns, publish_time=time_ns, data=data)
        writer.finish()
    return path


def by_rosbags(path: Path, topics: Sequence[str]) -> list[tuple[str, int, bytes]]:
    with Reader(path) as reader:
        wanted = [c for c in reader.connections if c.topic in topics]
        return (
            [(c.topic, time_ns, bytes(data)) for c, time_ns, data in reader.messages(wanted)]
            if wanted
            else []
        )


@settings(max_examples=60, deadline=None)
@given(
    events=EVENTS,
    topics=st.lists(st.sampled_from(TOPICS), min_size=1, max_size=3, unique=True),
    compression=st.sampled_from([CompressionType.NONE, CompressionType.ZSTD, CompressionType.LZ4]),
    checksums=st.booleans(),
)
def test_messages_are_those_of_rosbags(events, topics, compression, checksums) -> None:
    with tempfile.TemporaryDirectory() as folder:
        options = {"compression": compression, "enable_crcs": checksums}
        path = write(Path(folder) / "bag.mcap", events, **options)
        with Bag(path) as bag:
            first = [(m.topic, m.time_ns, bytes(m.data)) for m in bag.messages(topics)]
            # The second walk trusts what the first one has checked.
            again = [(m.topic, m.time_ns, bytes(m.data)) for m in bag.messages(topics)]
            heads = [(m.topic, m.time_ns, bytes(m.whole().data)) for m in bag.messages(topics, topics)]
        assert first == again == heads == by_rosbags(path, topics)


def test_of_heads_only_the_beginning_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "bag.mcap", [(0, n, 50_000) for n in range(40)], 100_000, **plain())
    asked: list[int] = []
    real = os.pread

    def pread(file: int, size: int, at: int) -> bytes:
        asked.append(size)
        return real(file, size, at)

    with Bag(path) as bag:
        monkeypatch.setattr(os, "pread", pread)
        found = list(bag.messages(TOPICS[:1], TOPICS[:1]))
    assert [message.size for message in found] == [50_004] * 40
    assert all(len(message.data) == 512 for message in found)
    assert sum(asked) < 200_000  # of two million; the first chunk is looked at as a whole


def test_only_the_times_that_matter(tmp_path: Path) -> None:
    path = write(tmp_path / "bag.mcap", [(n % 2, n, 100) for n in range(20)], **plain())
    with Bag(path) as bag:
        found = [(m.topic, m.time_ns) for m in bag.messages(TOPICS, at={"/a": {4, 6, 7}})]
    assert [time_ns for topic, time_ns in found if topic == "/a"] == [4, 6]
    assert [time_ns for topic, time_ns in found if topic == "/b"] == list(range(1, 20, 2))


def test_views_stay_as_they_are_when_the_walk_goes_on(tmp_path: Path) -> None:
    path = write(
        tmp_path / "bag.mcap", [(0, n, 6000) for n in range(12)], 20_000, compression=CompressionType.NONE
    )
    with Bag(path) as bag:
        kept = list(bag.messages(TOPICS))
        assert [(m.topic, m.time_ns, bytes(m.data)) for m in kept] == by_rosbags(path, TOPICS)


def plain() -> dict[str, Any]:
    return {"compression": CompressionType.NONE, "enable_crcs": False}


def test_two_walks_at_a_time(tmp_path: Path) -> None:
    path = write(
        tmp_path / "bag.mcap", [(n % 2, n, 700) for n in range(60)], compression=CompressionType.NONE
    )
    with Bag(path) as bag:
        pairs = list(zip(bag.messages(TOPICS), bag.messages(TOPICS), strict=True))
    assert [bytes(first.data) for first, _ in pairs] == [bytes(second.data) for _, second in pairs]
    assert len(pairs) == 60
