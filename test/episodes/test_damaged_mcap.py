"""mcap files with flipped bits and cut ends: what is sound is recovered exactly, nothing is invented."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
from foreign_bags import Written, chunk_places, messages, text, write_mcap
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcap.reader import make_reader
from mcap.records import Chunk, ChunkIndex, Footer
from mcap.stream_reader import StreamReader

from vlaforget_ros.episodes import BagSink, EpisodeWriter, read_episodes, scan_episodes
from vlaforget_ros.episodes.storage.bags import Bag

from .conftest import write_rollouts

WRITTEN = messages(400)
_SLOW = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def content(path: Path) -> Written:
    with Bag(path) as bag:
        return [(m.topic, m.time_ns, bytes(m.data)) for m in bag.messages(tuple(bag.topics))]


def in_chunk(place: ChunkIndex) -> Written:
    """What the undamaged chunk holds, by its range of times: chunks do not overlap here."""
    return [m for m in WRITTEN if place.message_start_time <= m[1] <= place.message_end_time]


def without(lost: Written) -> Written:
    gone = Counter(lost)
    return [m for m in WRITTEN if not gone[m]]


@pytest.fixture(scope="module", params=["none", "lz4", "zstd"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    return write_mcap(folder / "whole.mcap", WRITTEN, compression=request.param, chunk_size=3000)


def damaged(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "damaged.mcap"
    path.write_bytes(data)
    return path


@_SLOW
@given(data=st.data())
def test_a_flipped_bit_in_a_chunk_costs_that_chunk(whole: Path, tmp_path: Path, data: st.DataObject) -> None:
    place = data.draw(st.sampled_from(chunk_places(whole)))
    # Behind the chunk's own header; its data are all that its checksum covers.
    first = place.chunk_start_offset + 9 + 40 + len(place.compression)
    byte = data.draw(st.integers(first, first + place.compressed_size - 1))
    raw = bytearray(whole.read_bytes())
    raw[byte] ^= 1 << data.draw(st.integers(0, 7))
    path = damaged(tmp_path, bytes(raw))
    found = content(path)
    # zstd leaves a few bits of its frame's head without meaning: then nothing is lost at all.
    assert found == without(in_chunk(place)) or (place.compression and found == WRITTEN)
    with Bag(path) as bag:
        list(bag.messages(("/grip",)))
        if found != WRITTEN:
            (loss,) = bag.losses
            assert (loss.start_ns, loss.end_ns) == (place.message_start_time, place.message_end_time)
            assert loss.counts == Counter(topic for topic, _, _ in in_chunk(place))


@_SLOW
@given(data=st.data())
def test_a_flipped_bit_anywhere_costs_one_chunk_at_most(
    whole: Path, tmp_path: Path, data: st.DataObject
) -> None:
    raw = bytearray(whole.read_bytes())
    # Magic and header say what the file is; without them there is nothing to go by.
    byte = data.draw(st.integers(60, len(raw) - 1))
    raw[byte] ^= 1 << data.draw(st.integers(0, 7))
    found = content(damaged(tmp_path, bytes(raw)))
    assert not Counter(found) - Counter(WRITTEN)
    lost = Counter(WRITTEN) - Counter(found)
    assert not lost or any(lost == Counter(in_chunk(place)) for place in chunk_places(whole))


@_SLOW
@given(share=st.floats(0.0, 0.9999))
def test_a_cut_file_keeps_all_whole_chunks(whole: Path, tmp_path: Path, share: float) -> None:
    raw = whole.read_bytes()
    chunks = chunk_places(whole)
    # The first chunk tells the topics: before its end nothing can be read.
    least = chunks[0].chunk_start_offset + chunks[0].chunk_length
    size = least + int((len(raw) - least) * share)
    found = content(damaged(tmp_path, raw[:size]))
    assert found == WRITTEN[: len(found)]
    kept = [place for place in chunks if place.chunk_start_offset + place.chunk_length <= size]
    sure = sum(len(in_chunk(place)) for place in kept)
    assert len(found) >= sure
    if chunks[0].compression:
        assert len(found) == sure
    elif len(kept) < len(chunks):
        # Of a chunk that was not compressed every message that is whole, by what one of ours takes in the file.
        place = chunks[len(kept)]
        room = size - (place.chunk_start_offset + 49)
        ends = [sum(31 + len(m[2]) for m in in_chunk(place)[: n + 1]) for n in range(len(in_chunk(place)))]
        assert len(found) - sure == sum(end <= room for end in ends)


@pytest.mark.parametrize("kept", ["summary", "no summary"])
def test_a_broken_head_of_a_record_is_passed_over(whole: Path, tmp_path: Path, kept: str) -> None:
    chunks = chunk_places(whole)
    raw = bytearray(whole.read_bytes())
    place = chunks[3]
    raw[place.chunk_start_offset + 3] ^= 0x40  # the length of the record: 4 MB more than it has
    if kept == "no summary":
        last = chunks[-1]
        raw = raw[: last.chunk_start_offset + last.chunk_length]
    found = content(damaged(tmp_path, bytes(raw)))
    # The index knows where the chunk really ends; without it the chunk is lost, but not the next one.
    assert found == (WRITTEN if kept == "summary" else without(in_chunk(place)))


def test_a_wrong_index_does_not_lead_astray(whole: Path, tmp_path: Path) -> None:
    raw = bytearray(whole.read_bytes())
    last = chunk_places(whole)[-1]
    behind = last.chunk_start_offset + last.chunk_length + last.message_index_length
    at = raw.index(b"/grip", behind)
    raw[at + 1] ^= 1  # "/frip", says the index
    path = damaged(tmp_path, bytes(raw))
    assert content(path) == WRITTEN
    with Bag(path) as bag:
        assert "index does not fit its checksum" in bag.problems[0].message


def test_without_checksums_of_chunks_that_of_the_file_is_used(tmp_path: Path) -> None:
    options = {"enable_crcs": False, "chunk_size": 3000}
    path = write_mcap(tmp_path / "a.mcap", WRITTEN, enable_data_crcs=True, **options)
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"grip 77\0") + 5] ^= 1
    with Bag(damaged(tmp_path, bytes(raw))) as bag:
        assert bag.checked
        assert bag.losses[0].messages(("/grip",)) is None
        assert "checksum of the file does not fit" in bag.problems[0].message
    with Bag(write_mcap(tmp_path / "b.mcap", WRITTEN, **options)) as bag:
        assert not bag.checked
        assert bag.problems == []


@pytest.mark.parametrize("cut", [0.3, 0.6, 0.9])
def test_loose_messages_that_end_too_early(tmp_path: Path, cut: float) -> None:
    raw = write_mcap(tmp_path / "a.mcap", WRITTEN, use_chunking=False).read_bytes()
    size = int(len(raw) * cut)
    found = content(damaged(tmp_path, raw[:size]))
    assert found == WRITTEN[: len(found)]
    # As many as their last bytes are there.
    assert len(found) == sum(raw.index(data) + len(data) <= size for _, _, data in WRITTEN)


def test_a_broken_loose_message_costs_itself(tmp_path: Path) -> None:
    raw = bytearray(write_mcap(tmp_path / "a.mcap", WRITTEN, use_chunking=False).read_bytes())
    victim = next(m for m in WRITTEN if b"grip 200\0" in m[2])
    raw[raw.index(victim[2]) - 25] ^= 0x10  # its length
    assert content(damaged(tmp_path, bytes(raw))) == without([victim])


def in_chunks(path: Path) -> list[int]:
    """Number of messages in each chunk, by the mcap library."""
    with path.open("rb") as file:
        times = [message.log_time for _, _, message in make_reader(file).iter_messages()]
    places = chunk_places(path)
    return [sum(p.message_start_time <= t <= p.message_end_time for t in times) for p in places]


@pytest.mark.parametrize("hit", range(5))
def test_a_rollout_with_a_hole_is_named_and_left_out(tmp_path: Path, hit: int) -> None:
    with EpisodeWriter(tmp_path / "bag") as writer:
        for number in range(5):
            write_rollouts(writer, rollouts=1, frames=10, size=16, first=number)
            writer.flush()
    (file,) = (tmp_path / "bag").glob("*.mcap")
    place, count = chunk_places(file)[hit], in_chunks(file)[hit]
    raw = bytearray(file.read_bytes())
    raw[place.chunk_start_offset + 2000] ^= 4
    file.write_bytes(bytes(raw))
    others = [f"r{number}" for number in range(5) if number != hit]
    for report in (read_episodes(tmp_path / "bag"), scan_episodes(tmp_path / "bag")):
        assert [e.rollout_id for e in report.episodes] == others
        assert report.count("messages_lost") == count


def test_a_rollout_that_lost_its_middle_is_not_taken_for_a_whole_one(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path / "bag") as writer:
        write_rollouts(writer, rollouts=2, frames=20, size=16)
        writer.begin("long", "open the faucet")
        for _ in range(20):
            writer.flush()
            writer.frame(np.zeros((16, 16, 3), np.uint8), np.zeros(2), ee_position=np.zeros(3))
        writer.flush()
        writer.end(True)
    (file,) = (tmp_path / "bag").glob("*.mcap")
    middle = chunk_places(file)[10]
    raw = bytearray(file.read_bytes())
    raw[middle.chunk_start_offset + 200] ^= 1
    file.write_bytes(bytes(raw))
    report = read_episodes(tmp_path / "bag")
    assert [e.rollout_id for e in report.episodes] == ["r0", "r1"]
    (problem,) = [p for p in report.problems if p.kind == "episode_damaged"]
    assert (problem.rollout_id, problem.count) == ("long", 2)  # image and action; nobody reads the pose
    shown = read_episodes(tmp_path / "bag", damaged=True).episodes
    assert [(len(e), bool(e.damage)) for e in shown] == [(20, False), (20, False), (19, True)]
    scanned = scan_episodes(tmp_path / "bag", damaged=True).episodes
    assert [e.damage for e in scanned] == [e.damage for e in shown]


def test_a_wrong_message_index_costs_nothing_where_the_chunk_has_a_checksum(tmp_path: Path) -> None:
    path = write_mcap(tmp_path / "a.mcap", WRITTEN, chunk_size=3000)
    place = chunk_places(path)[2]
    begin = place.chunk_start_offset + place.chunk_length
    for byte in range(begin, begin + place.message_index_length, 7):
        raw = bytearray(path.read_bytes())
        raw[byte] ^= 1
        with Bag(damaged(tmp_path, bytes(raw))) as bag:
            for heads in ((), ("/grip",), ("/grip", "/words")):
                found = [
                    (m.topic, m.time_ns, bytes(m.whole().data))
                    for m in bag.messages(("/grip", "/words"), heads)
                ]
                assert found == WRITTEN


@pytest.fixture(scope="module", params=["none", "zstd"])
def ours(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As our own recorder writes it."""
    folder = tmp_path_factory.mktemp(request.param) / "bag"
    with BagSink(folder, compression=request.param, flush_every_s=0) as sink:
        sink.add_topic("/words", "std_msgs/msg/String")
        for number, (_, _, data) in enumerate(WRITTEN[:200]):
            sink.write("/words", text(data.hex()), 1000 + number)
            if number % 20 == 19:
                sink.flush()
    return next(folder.glob("*.mcap"))


@_SLOW
@given(data=st.data())
def test_a_flipped_bit_in_our_own_recording_costs_one_chunk_at_most(
    ours: Path, tmp_path: Path, data: st.DataObject
) -> None:
    raw = bytearray(ours.read_bytes())
    whole = content(ours)
    raw[data.draw(st.integers(60, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    found = content(damaged(tmp_path, bytes(raw)))
    missing = [number for number, message in enumerate(whole) if message not in found]
    assert [message for message in whole if message in found] == found
    assert missing in ([], *(list(range(first, first + 20)) for first in range(0, 200, 20)))


def test_our_own_recordings_have_every_checksum(ours: Path) -> None:
    with ours.open("rb") as file:
        records = list(StreamReader(file, validate_crcs=True, emit_chunks=True).records)
    assert all(record.uncompressed_crc for record in records if isinstance(record, Chunk))
    (footer,) = [record for record in records if isinstance(record, Footer)]
    assert footer.summary_crc == crc32(ours.read_bytes()[footer.summary_start : -12])
