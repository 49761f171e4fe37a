"""sqlite3 files that are cut, torn or were never closed: every row that is whole is recovered, none is invented."""

from __future__ import annotations

import random
import shutil
import sqlite3
import struct
from pathlib import Path

import pytest
from foreign_bags import Written, text
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rosbags.rosbag2 import StoragePlugin, Writer

from vlaforget_ros.episodes import EpisodeWriter, read_episodes
from vlaforget_ros.episodes.messages import typestore
from vlaforget_ros.episodes.storage.bags import Bag

from .conftest import write_rollouts

PAGE = 4096


def recovered(path: Path, written: Written) -> list[int]:
    """Which of the messages were found, in this order; -1 for one that was never written."""
    numbers = {message: number for number, message in enumerate(written)}
    with Bag(path) as bag:
        found = [(m.topic, m.time_ns, bytes(m.data)) for m in bag.messages(tuple(bag.topics))]
    return [numbers.get(message, -1) for message in found]


@pytest.fixture(scope="module")
def written() -> Written:
    """Small messages and some that need several pages."""
    noise = random.Random(1)
    sizes = [noise.choice([10, 60, 900, 3000, 9000]) for _ in range(600)]
    return [
        ("/words", 1000 + 10 * n, text(f"{n} " + noise.randbytes(size).hex())) for n, size in enumerate(sizes)
    ]


@pytest.fixture(scope="module")
def whole(written: Written, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sqlite") / "bag"
    with Writer(folder, version=9, storage_plugin=StoragePlugin.SQLITE3) as writer:
        topic = writer.add_connection("/words", "std_msgs/msg/String", typestore=typestore())
        for _, time_ns, data in written:
            writer.write(topic, time_ns, data)
    return next(folder.glob("*.db3"))


def pages_of_rows(path: Path) -> list[set[int]]:
    """For each message the pages that it lies in, by sqlite's own table of them."""
    with sqlite3.connect(path) as database:
        query = "SELECT path, pageno, pagetype, ncell FROM dbstat WHERE name = 'messages' ORDER BY path"
        pages = database.execute(query).fetchall()
    database.close()
    rows: list[set[int]] = []
    overflow: dict[str, set[int]] = {}
    for where, number, kind, _ in pages:
        if kind == "overflow":
            # Path of the leaf, number of the cell in three digits, "+", number of the page in its chain.
            cell = where.partition("+")[0]
            overflow.setdefault(f"{cell[:-3]}|{int(cell[-3:], 16)}", set()).add(number)
    for where, number, kind, cells in pages:
        if kind == "leaf":
            rows += [{number} | overflow.get(f"{where}|{cell}", set()) for cell in range(cells)]
    return rows


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0.02, 0.999))
def test_a_cut_database_keeps_every_row_whose_pages_are_there(
    whole: Path, written: Written, tmp_path: Path, share: float
) -> None:
    raw = whole.read_bytes()
    path = tmp_path / "cut.db3"
    path.write_bytes(raw[: int(len(raw) * share)])
    there = int(len(raw) * share) // PAGE
    rows = pages_of_rows(whole)
    assert len(rows) == len(written)
    expected = [number for number, pages in enumerate(rows) if max(pages) <= there]
    if not expected:
        return
    assert recovered(path, written) == expected
    with Bag(path) as bag:
        assert bag.losses
        assert bag.count(("/words",)) == len(expected)


@pytest.mark.parametrize("seed", range(8))
def test_a_page_of_zeros_costs_the_rows_in_it(
    whole: Path, written: Written, tmp_path: Path, seed: int
) -> None:
    raw = bytearray(whole.read_bytes())
    rows = pages_of_rows(whole)
    mine = sorted(set.union(*rows))
    page = random.Random(seed).choice(mine)
    raw[(page - 1) * PAGE : page * PAGE] = bytes(PAGE)
    path = tmp_path / "torn.db3"
    path.write_bytes(bytes(raw))
    found = recovered(path, written)
    lost = {number for number, pages in enumerate(rows) if page in pages}
    assert [number for number in found if number not in lost and number >= 0] == [
        number for number in range(len(written)) if number not in lost
    ]
    # There is no checksum: the last page of a long message may be zeros without anybody noticing, no other one.
    assert len(found) - (len(written) - len(lost)) <= 1


@pytest.mark.parametrize("seed", range(6))
def test_a_lost_page_above_the_rows_costs_nothing(
    whole: Path, written: Written, tmp_path: Path, seed: int
) -> None:
    with sqlite3.connect(whole) as database:
        query = (
            "SELECT pageno FROM dbstat WHERE name IN ('messages', 'timestamp_idx') AND pagetype = 'internal'"
        )
        inner = [number for (number,) in database.execute(query)]
    database.close()
    raw = bytearray(whole.read_bytes())
    page = random.Random(seed).choice(inner)
    raw[(page - 1) * PAGE : (page - 1) * PAGE + PAGE] = b"\xff" * PAGE
    path = tmp_path / "torn.db3"
    path.write_bytes(bytes(raw))
    assert recovered(path, written) == list(range(len(written)))


def test_a_damaged_index_of_times_is_not_asked(whole: Path, written: Written, tmp_path: Path) -> None:
    with sqlite3.connect(whole) as database:
        query = "SELECT pageno FROM dbstat WHERE name = 'timestamp_idx' AND pagetype = 'leaf'"
        leaf = database.execute(query).fetchone()[0]
    database.close()
    raw = bytearray(whole.read_bytes())
    raw[(leaf - 1) * PAGE + 3 : (leaf - 1) * PAGE + 5] = struct.pack(">H", 0)  # no entries in it
    path = tmp_path / "torn.db3"
    path.write_bytes(bytes(raw))
    assert recovered(path, written) == list(range(len(written)))


def test_a_log_beside_a_file_that_was_not_closed_is_used(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path / "bag", storage="sqlite3") as writer:
        write_rollouts(writer, rollouts=2)
    (file,) = (tmp_path / "bag").glob("*.db3")
    database = sqlite3.connect(file)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("UPDATE messages SET timestamp = timestamp + 1")
    database.commit()
    # As a killed recorder leaves them: what was committed is in the log only.
    left = tmp_path / "killed"
    left.mkdir()
    for each in (tmp_path / "bag").glob("*.db3*"):
        shutil.copy(each, left / each.name)
    database.close()
    before = {each: each.read_bytes() for each in left.iterdir()}
    with Bag(left) as bag:
        times = [message.time_ns for message in bag.messages(tuple(bag.topics))]
        assert "was not closed" in bag.problems[0].message
    assert all(time_ns % 10 == 1 for time_ns in times[:3])
    assert {each: each.read_bytes() for each in left.iterdir()} == before


def test_rollouts_of_a_cut_database(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path / "bag", storage="sqlite3") as writer:
        write_rollouts(writer, rollouts=6, frames=20, size=32)
    (file,) = (tmp_path / "bag").glob("*.db3")
    raw = file.read_bytes()
    file.write_bytes(raw[: len(raw) * 2 // 3])
    report = read_episodes(tmp_path / "bag")
    assert [e.rollout_id for e in report.episodes][:3] == ["r0", "r1", "r2"]
    for episode in report.episodes[:3]:
        assert episode.actions[:, 0].tolist() == list(range(20))
        assert episode.images[:, 0, 0, 0].tolist() == list(range(20))
    assert report.count("bag_damaged") >= 1
