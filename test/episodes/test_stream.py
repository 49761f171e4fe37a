"""Streaming gives the frames that reading gives, in batches, from any kind of bag."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from rosbags.rosbag2.enums import CompressionFormat, CompressionMode
from teleop_bags import Teleop, episode

from vlaforget_ros.episodes import (
    Episode,
    EpisodeWriter,
    Selection,
    TopicMap,
    read_episodes,
    read_many,
    select,
)
from vlaforget_ros.episodes.mapped.mapping import parse_mapping
from vlaforget_ros.episodes.streaming import frames as streaming
from vlaforget_ros.episodes.streaming.batches import Batch
from vlaforget_ros.episodes.streaming.frames import BatchStream, stream_batches
from vlaforget_ros.errors import UnlearningError

from .conftest import SECOND, STEP, Tape, motion, picture, write_rollouts

TICK = st.tuples(
    st.integers(0, 3),  # images
    st.integers(0, 2),  # actions
    st.sampled_from([0, 0, 0, 201]),  # fault
    st.sampled_from([16, 16, 16, 20]),  # size of the image
    st.integers(0, 1),  # rollout
)


def flat(batches: Iterable[Batch]) -> dict[tuple[str, int], tuple[bytes, bytes, str]]:
    """Content of each frame; frames that come twice are an error."""
    found: dict[tuple[str, int], tuple[bytes, bytes, str]] = {}
    for batch in batches:
        for row in range(len(batch)):
            key = (batch.episodes[row], int(batch.frames[row]))
            assert key not in found
            state = b"" if batch.states is None else batch.states[row].tobytes()
            found[key] = (
                batch.images[row].tobytes(),
                batch.actions[row].tobytes() + state,
                batch.instructions[row],
            )
    return found


def of(episodes: Iterable[Episode]) -> dict[tuple[str, int], tuple[bytes, bytes, str]]:
    return {
        (episode.rollout_id, index): (
            episode.images[index].tobytes(),
            episode.actions[index].tobytes()
            + (b"" if episode.states is None else episode.states[index].tobytes()),
            episode.instruction,
        )
        for episode in episodes
        for index in range(len(episode))
    }


@settings(max_examples=40, deadline=None)
@given(
    ticks=st.lists(TICK, min_size=1, max_size=14),
    shuffle=st.randoms(use_true_random=False),
    size=st.integers(1, 5),
)
def test_a_stream_gives_exactly_the_frames_that_reading_gives(ticks, shuffle, size) -> None:
    events = []
    for tick, (images, actions, fault, pixels, rollout) in enumerate(ticks):
        events += [("image", tick, copy, pixels, rollout) for copy in range(images)]
        events += [("action", tick, fault, 0, rollout) for _ in range(actions)]
    shuffle.shuffle(events)
    with tempfile.TemporaryDirectory() as folder:
        tape = Tape(Path(folder) / "bag")
        for rollout in range(2):
            tape.rollout(rollout, 0, f"r{rollout}", f"go {rollout}")
        for order, (kind, tick, number, pixels, rollout) in enumerate(events):
            # Several messages have one log time; stamps repeat within and across the rollouts.
            stamp, arrived = SECOND + (tick // 2) * STEP, SECOND + order // 2
            if kind == "image":
                tape.image(stamp, picture(10 * tick + number, rollout, pixels), arrived)
            else:
                tape.action(stamp, motion(tick, order), arrived, f"r{rollout}", fault=number)
        for rollout in range(2):
            tape.rollout(100 * SECOND, 2, f"r{rollout}")
        path = tape.close()
        report = read_episodes(path)
        with BatchStream([path], batch=size) as stream:
            first, again = flat(stream), flat(stream)
        assert stream.lost == 0
    assert first == again == of(report.episodes)
    assert len(stream) == sum(map(len, report.episodes))
    assert stream.report.problems == report.problems


@pytest.mark.parametrize("compressed", ["", "png", "jpeg"])
@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_every_storage_and_encoding(tmp_path: Path, storage: str, compressed: str) -> None:
    with EpisodeWriter(tmp_path / "bag", storage=storage, compressed=compressed) as writer:
        write_rollouts(writer, size=24)
    assert flat(stream_batches([tmp_path / "bag"], batch=5)) == of(read_episodes(tmp_path / "bag").episodes)


@pytest.mark.parametrize("mode", [CompressionMode.STORAGE, CompressionMode.MESSAGE, CompressionMode.FILE])
def test_compressed_bags(small_bag: Path, tmp_path: Path, mode: CompressionMode) -> None:
    plugin = StoragePlugin.MCAP if mode is CompressionMode.STORAGE else StoragePlugin.SQLITE3
    writer = Writer(tmp_path / "packed", version=9, storage_plugin=plugin)
    writer.set_compression(mode, CompressionFormat.ZSTD)
    with Reader(small_bag) as reader, writer:
        known = {
            c.topic: writer.add_connection(
                c.topic, c.msgtype, msgdef=c.msgdef.data, rihs01="RIHS01_" + "0" * 64
            )
            for c in reader.connections
        }
        for connection, time_ns, data in reader.messages():
            writer.write(known[connection.topic], time_ns, data)
    assert flat(stream_batches([tmp_path / "packed"])) == of(read_episodes(small_bag).episodes)


def test_batches_follow_the_recording(small_bag: Path) -> None:
    batches = list(stream_batches([small_bag], batch=10))
    assert [len(batch) for batch in batches] == [10, 10, 4]
    assert [*batches[0].frames, *batches[1].frames[:2]] == list(range(12))
    assert batches[1].episodes == ("r0",) * 2 + ("r1",) * 8
    assert batches[0].images.shape == (10, 8, 8, 3)
    assert batches[0].actions.dtype == np.float32


def test_a_batch_that_is_kept_stays_as_it_is(small_bag: Path) -> None:
    kept = [(batch, batch.images.copy()) for batch in stream_batches([small_bag], batch=3)]
    assert all(np.array_equal(batch.images, then) for batch, then in kept)


def test_memory_is_used_again_when_a_batch_is_gone(small_bag: Path) -> None:
    places = {batch.images.__array_interface__["data"][0] for batch in stream_batches([small_bag], batch=2)}
    assert len(places) <= 3  # one in use, one being filled, one being gathered; of twelve


def test_frames_of_other_sizes_get_batches_of_their_own(tmp_path: Path) -> None:
    for number, size in enumerate((8, 16)):
        with EpisodeWriter(tmp_path / f"bag{number}") as writer:
            write_rollouts(writer, rollouts=1, frames=5, size=size, first=number)
    batches = list(stream_batches([tmp_path / "bag0", tmp_path / "bag1"], batch=4))
    assert [batch.images.shape[:2] for batch in batches] == [(4, 8), (1, 8), (4, 16), (1, 16)]


def test_a_selection_gives_the_frames_that_it_selects(small_bag: Path) -> None:
    selection = Selection(has_violation=True, before_s=0.45, max_frames=4)
    parts = select(read_episodes(small_bag).episodes, selection)
    expected = {(part.episode.rollout_id, int(index)) for part in parts for index in part.indices}
    stream = BatchStream([small_bag], chosen=selection)
    assert set(flat(stream)) == expected
    assert len(stream) == 4


def test_named_frames(small_bag: Path) -> None:
    found = flat(stream_batches([small_bag], chosen={"r1": np.array([7, 2])}))
    assert list(found) == [("r1", 2), ("r1", 7)]
    with pytest.raises(UnlearningError, match="no such frame: r1"):
        BatchStream([small_bag], chosen={"r1": np.array([12])})
    with pytest.raises(UnlearningError, match="no such episode"):
        BatchStream([small_bag], chosen={"r7": np.array([0])})


def test_actions_of_several_ticks(small_bag: Path) -> None:
    (batch,) = stream_batches([small_bag], chosen={"r0": np.array([0, 10, 11])}, chunk=3)
    assert batch.actions[:, ::2].tolist() == [[0, 1, 2], [10, 11, 11], [11, 11, 11]]


def test_the_longer_recording_of_a_rollout_counts(small_bag: Path, tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path / "longer") as writer:
        write_rollouts(writer, rollouts=1, frames=20)
    bags = [small_bag, tmp_path / "longer"]
    stream = BatchStream(bags)
    assert flat(stream) == of(read_many(bags).episodes)
    assert stream.report.count("rollout_repeated") == 1


def test_more_bags_than_may_stay_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "_OPEN_BAGS", 1)
    bags = [tmp_path / f"bag{number}" for number in range(3)]
    for number, bag in enumerate(bags):
        with EpisodeWriter(bag) as writer:
            write_rollouts(writer, rollouts=1, size=24, first=number)
    assert flat(stream_batches(bags, batch=7)) == of(read_many(bags).episodes)


def test_bags_that_cannot_be_read(small_bag: Path, tmp_path: Path) -> None:
    assert BatchStream([small_bag, tmp_path / "nowhere"]).report.count("bag_unreadable") == 1
    with pytest.raises(UnlearningError, match="does not exist"):
        BatchStream([tmp_path / "nowhere"])


def test_a_picture_that_cannot_be_decoded_is_lost_and_counted(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path / "bag", storage="sqlite3", compressed="jpeg") as writer:
        write_rollouts(writer)
    file = tmp_path / "bag" / "bag_0.db3"  # without checksums
    file.write_bytes(file.read_bytes().replace(b"\xff\xd8\xff", b"\x00\x00\x00", 1))
    stream = BatchStream([tmp_path / "bag"])
    whole = read_episodes(tmp_path / "bag").episodes
    assert len(stream) == 24
    assert sorted(content for content, *_ in flat(stream).values()) == sorted(
        c for c, *_ in of(whole).values()
    )
    assert stream.lost == 1
    assert sum(map(len, whole)) == 23


def test_a_bag_that_becomes_shorter_is_an_error(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path / "bag") as writer:
        write_rollouts(writer, size=24)
    file = tmp_path / "bag" / "bag_0.mcap"
    with BatchStream([tmp_path / "bag"]) as stream:
        with file.open("r+b") as stored:
            stored.truncate(file.stat().st_size // 8)
        with pytest.raises(UnlearningError, match="changed while it was read"):
            list(stream)


def test_somebody_elses_bag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "_MAPPED_FRAMES", 15)
    tape = Teleop(tmp_path / "kitchen")
    for number, start in enumerate((1, 4, 9, 20)):
        episode(tape, start, f"task {number}", frames=10 - number)
    mapping = parse_mapping("image: camera\naction: {topic: cmd}\ninstruction: {topic: task}\n")
    path = tape.close()
    stream = BatchStream([path], mapping, batch=8)
    expected = of(read_episodes(path, mapping).episodes)
    assert len(expected) == len(stream) > 30
    assert flat(stream) == expected
    assert stream.lost == 0


def test_further_cameras_and_the_state(tmp_path: Path) -> None:
    topics = TopicMap(cameras=("wrist",), state="policy_state")
    with EpisodeWriter(tmp_path / "bag", cameras=("wrist",), state="policy_state") as writer:
        for number in range(2):
            writer.begin(f"r{number}", "go")
            for tick in range(6):
                views = [picture(tick, number, 24), picture(tick, number + 5, 24)]
                writer.frame(views, motion(tick, number), state=np.array([tick, number, 0.5]))
            writer.end(True)
    stream = BatchStream([tmp_path / "bag"], topics, batch=4)
    batches = list(stream)
    assert batches[0].images.shape == (4, 2, 24, 24, 3)
    assert flat(batches) == of(read_episodes(tmp_path / "bag", topics).episodes)
    assert stream.lost == 0
