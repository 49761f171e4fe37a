"""Finding the recordings below a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlaforget_ros.episodes import scan_many
from vlaforget_ros.episodes.folders import find_bags
from vlaforget_ros.errors import UnlearningError


def test_bags_are_found_however_deep(tmp_path: Path) -> None:
    split, killed = tmp_path / "b" / "monday", tmp_path / "a" / "killed"
    for folder in (split, killed):
        folder.mkdir(parents=True)
        (folder / "x_0.mcap").touch()
        (folder / "x_1.mcap").touch()
    (split / "metadata.yaml").touch()
    (tmp_path / "b" / "notes.txt").touch()
    (tmp_path / ".trash").mkdir()
    (tmp_path / ".trash" / "old.mcap").touch()
    assert find_bags([tmp_path]) == [killed, split]
    assert find_bags([split, tmp_path, killed / "x_0.mcap"]) == [split, killed, killed / "x_0.mcap"]


def test_loose_files_of_other_names_or_beside_bags_are_bags_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "monday").mkdir()
    (tmp_path / "monday" / "metadata.yaml").touch()
    (tmp_path / "x_0.mcap").touch()
    assert find_bags([tmp_path]) == [tmp_path / "monday", tmp_path / "x_0.mcap"]
    loose = tmp_path / "loose"
    loose.mkdir()
    for name in ("a_0.mcap", "b_0.mcap"):
        (loose / name).touch()
    assert find_bags([loose]) == [loose / "a_0.mcap", loose / "b_0.mcap"]


def test_nothing_is_an_error_that_names_the_place(tmp_path: Path) -> None:
    with pytest.raises(UnlearningError, match="no recordings found"):
        find_bags([tmp_path])
    with pytest.raises(UnlearningError, match="no such folder"):
        find_bags([tmp_path / "lost"])


def test_a_rollout_in_two_bags_counts_once(small_bag: Path) -> None:
    report = scan_many([small_bag, small_bag / "bag_0.mcap"])
    assert [info.rollout_id for info in report.episodes] == ["r0", "r1"]
    assert report.count("rollout_repeated") == 2
