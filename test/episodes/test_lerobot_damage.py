"""Damaged LeRobot data sets: what is whole is read exactly, what is not is listed, and nothing takes its place."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vlaforget_ros.episodes import Episode, EpisodeReport, read_episodes
from vlaforget_ros.episodes.lerobot.layout import FileLimits
from vlaforget_ros.episodes.lerobot.reading import read_lerobot
from vlaforget_ros.episodes.lerobot.writing import write_lerobot
from vlaforget_ros.errors import ErrorCode, UnlearningError

from .test_lerobot_writing import episode

ROWS = "data/chunk-000/file-000.parquet"
LIST = "meta/episodes/chunk-000/file-000.parquet"
CLIP = "videos/observation.images.image/chunk-000/file-000.mp4"
FRACTIONS = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]


@pytest.fixture(scope="module")
def episodes() -> list[Episode]:
    return [episode(number, frames=8) for number in range(4)]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, episodes: list[Episode]) -> Path:
    """One parquet file for each episode."""
    folder = tmp_path_factory.mktemp("images") / "set"
    write_lerobot(episodes, folder, 10, video=False, limits=FileLimits(data_mb=0.001))
    return folder


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory, episodes: list[Episode]) -> Path:
    folder = tmp_path_factory.mktemp("video") / "set"
    write_lerobot(episodes, folder, 10)
    return folder


@pytest.fixture
def copy(tmp_path: Path) -> Callable[[Path], Path]:
    return lambda folder: Path(shutil.copytree(folder, tmp_path / "set"))


def cut(path: Path, fraction: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * fraction)])


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 0x10
    path.write_bytes(data)


def change(path: Path, name: str, edit: Callable[[list[object]], None]) -> None:
    table = pq.read_table(path)
    values = table[name].to_pylist()
    edit(values)
    column = pa.array(values, table[name].type)
    pq.write_table(table.set_column(table.column_names.index(name), name, column), path)


def assert_whole(report: EpisodeReport, whole: list[Episode], wanted: set[str]) -> None:
    """Every episode that was read is exactly one that was written."""
    known = {one.rollout_id: one for one in whole}
    assert {one.rollout_id for one in report.episodes} == wanted
    for one in report.episodes:
        for name in ("images", "actions", "stamps_ns"):
            assert np.array_equal(getattr(one, name), getattr(known[one.rollout_id], name))


@pytest.mark.parametrize("fraction", FRACTIONS)
def test_a_cut_file_of_rows_costs_its_episodes(
    copy: Callable[[Path], Path], images: Path, episodes: list[Episode], fraction: float
) -> None:
    folder = copy(images)
    cut(folder / "data" / "chunk-000" / "file-002.parquet", fraction)
    report = read_lerobot(folder)
    assert_whole(report, episodes, {"r0", "r1", "r3"})
    assert [(p.kind, p.rollout_id) for p in report.problems] == [("data_unreadable", "r2")]


def test_a_flipped_bit_among_the_rows_is_found(
    copy: Callable[[Path], Path], tmp_path: Path, episodes: list[Episode]
) -> None:
    """Anywhere in the file: the others are exact, and no wrong number is believed."""
    write_lerobot(episodes, tmp_path / "one", 10, video=False)
    path = tmp_path / "one" / ROWS
    intact = path.read_bytes()
    lost = 0
    for position in range(4, len(intact) - 8, len(intact) // 40):
        flip(path, position)
        try:
            report = read_lerobot(tmp_path / "one")
        finally:
            path.write_bytes(intact)
        known = {one.rollout_id: one for one in episodes}
        for one in report.episodes:
            kept = np.isin(known[one.rollout_id].stamps_ns, one.stamps_ns)
            assert np.array_equal(one.images, known[one.rollout_id].images[kept])
            assert np.array_equal(one.actions, known[one.rollout_id].actions[kept])
        frames = sum(map(len, report.episodes))
        assert frames == 32 or report.problems
        lost += 32 - frames
    assert 0 < lost < 40 * 32


def test_a_missing_file_of_rows(copy: Callable[[Path], Path], images: Path, episodes: list[Episode]) -> None:
    folder = copy(images)
    (folder / ROWS).unlink()
    assert_whole(read_episodes(folder), episodes, {"r1", "r2", "r3"})


@pytest.mark.parametrize("fraction", FRACTIONS)
def test_a_cut_video_never_shows_a_frame_in_the_place_of_another(
    copy: Callable[[Path], Path], video: Path, fraction: float
) -> None:
    folder = copy(video)
    whole = {one.rollout_id: one for one in read_lerobot(video).episodes}
    cut(folder / CLIP, fraction)
    report = read_lerobot(folder)
    assert sum(map(len, report.episodes)) + report.count("frames_without_image") == 32
    assert report.count("frames_without_image") > 0
    for one in report.episodes:
        kept = np.isin(whole[one.rollout_id].stamps_ns, one.stamps_ns)
        assert np.array_equal(one.images, whole[one.rollout_id].images[kept])
        assert one.dropped_frames >= 8 - len(one)
    # The index lies in front, so the frames before the cut are there.
    assert report.episodes or fraction < 0.6


def test_a_missing_video_says_which(copy: Callable[[Path], Path], video: Path) -> None:
    folder = copy(video)
    (folder / CLIP).unlink()
    report = read_lerobot(folder)
    assert report.episodes == ()
    assert report.count("video_unreadable") == 4
    assert "file-000.mp4" in next(p.message for p in report.problems if p.kind == "video_unreadable")


def test_a_broken_picture_costs_one_frame(
    copy: Callable[[Path], Path], images: Path, episodes: list[Episode]
) -> None:
    def damage(values: list[object]) -> None:
        stored = values[3]
        assert isinstance(stored, dict)
        values[3] = {**stored, "bytes": stored["bytes"][:-20]}

    folder = copy(images)
    change(folder / ROWS, "observation.images.image", damage)
    report = read_lerobot(folder)
    first = report.episodes[0]
    assert (len(first), first.dropped_frames, report.count("frames_without_image")) == (7, 1, 1)
    assert np.array_equal(first.images, np.delete(episodes[0].images, 3, axis=0))
    assert np.array_equal(first.actions, np.delete(episodes[0].actions, 3, axis=0))
    assert np.array_equal(first.stamps_ns, np.delete(episodes[0].stamps_ns, 3))


def test_actions_that_are_not_finite_and_times_that_do_not_grow(
    copy: Callable[[Path], Path], images: Path
) -> None:
    folder = copy(images)
    change(folder / ROWS, "action", lambda values: values.__setitem__(2, [0.0, float("nan"), 0.0]))
    change(folder / ROWS, "timestamp", lambda values: values.__setitem__(5, 0.3))
    report = read_lerobot(folder)
    assert len(report.episodes[0]) == 6
    assert report.count("actions_non_finite") == 1
    assert report.count("frames_out_of_order") == 1


def test_a_row_without_a_number(copy: Callable[[Path], Path], images: Path) -> None:
    folder = copy(images)
    change(folder / ROWS, "frame_index", lambda values: values.__setitem__(4, None))
    report = read_lerobot(folder)
    assert len(report.episodes[0]) == 7
    assert report.count("frames_out_of_order") == 1


def test_fewer_rows_than_listed(copy: Callable[[Path], Path], images: Path, episodes: list[Episode]) -> None:
    folder = copy(images)
    table = pq.read_table(folder / ROWS)
    pq.write_table(table.slice(0, 5), folder / ROWS)
    report = read_lerobot(folder)
    assert report.count("frames_missing") == 3
    assert np.array_equal(report.episodes[0].images, episodes[0].images[:5])
    assert np.array_equal(report.episodes[0].stamps_ns, episodes[0].stamps_ns[:5])


def test_a_list_of_episodes_that_lacks_some(copy: Callable[[Path], Path], images: Path) -> None:
    folder = copy(images)
    pq.write_table(pq.read_table(folder / LIST).slice(0, 2), folder / LIST)
    report = read_lerobot(folder)
    assert [one.rollout_id for one in report.episodes] == ["r0", "r1"]
    assert report.count("episodes_not_listed") == 2


def test_without_its_own_facts_a_data_set_is_like_any_other(
    copy: Callable[[Path], Path], images: Path
) -> None:
    folder = copy(images)
    cut(folder / "meta" / "vlaforget.parquet", 0.5)
    report = read_lerobot(folder)
    assert report.count("facts_damaged") == 1
    assert [(one.success, one.violations) for one in report.episodes] == [(None, ())] * 4
    assert all(one.rollout_id.startswith("lerobot-") for one in report.episodes)


def test_facts_of_another_data_set_are_not_believed(copy: Callable[[Path], Path], images: Path) -> None:
    folder = copy(images)
    change(folder / "meta" / "vlaforget.parquet", "stamps_ns", lambda values: values.__setitem__(1, [1, 2]))
    report = read_lerobot(folder)
    assert report.count("facts_unfit") == 1
    assert [one.success for one in report.episodes] == [True, None, True, False]


@pytest.mark.parametrize("name", ["meta/tasks.parquet", LIST, "meta/info.json"])
@pytest.mark.parametrize("fraction", [None, 0.5])
def test_without_its_description_a_data_set_is_refused(
    copy: Callable[[Path], Path], images: Path, name: str, fraction: float | None
) -> None:
    folder = copy(images)
    if fraction is None:
        (folder / name).unlink()
    else:
        cut(folder / name, fraction)
    with pytest.raises(UnlearningError) as caught:
        read_lerobot(folder)
    assert caught.value.code == ErrorCode.UNLEARNING_BAG_UNREADABLE
    assert caught.value.remedy
