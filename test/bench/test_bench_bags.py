"""The benchmark of bags measures what it says, and leaves nothing behind."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from vlaforget_ros.bench import bag_making
from vlaforget_ros.bench.bag_making import frames_of_bytes, require_space, rewritten, write_bag
from vlaforget_ros.bench.bag_reading import compare, peak_bytes, stream_seconds
from vlaforget_ros.bench.bags import Settings, measure
from vlaforget_ros.cli.app import app
from vlaforget_ros.episodes import read_episodes
from vlaforget_ros.errors import UnlearningError


def quiet(done: int, total: int) -> None:
    assert 0 <= done <= total


@pytest.fixture
def bag(tmp_path: Path) -> Path:
    write_bag(tmp_path / "bag", 250, 32, seed=1, progress=quiet)
    return tmp_path / "bag"


def test_a_made_bag_has_the_frames_that_were_asked_for(bag: Path) -> None:
    report = read_episodes(bag)
    assert [len(episode) for episode in report.episodes] == [200, 50]
    assert report.problems == ()
    images = report.episodes[0].images
    assert images.shape[1:] == (32, 32, 3)
    assert len(np.unique(images[:16].reshape(16, -1), axis=0)) == 16
    assert frames_of_bytes(3 * 224 * 224 * 10, 224) == 10


@pytest.mark.parametrize("packed", [False, True])
def test_a_rewritten_bag_has_the_same_frames(bag: Path, tmp_path: Path, packed: bool) -> None:
    copy = rewritten(bag, tmp_path / "copy", packed)
    for first, second in zip(read_episodes(bag).episodes, read_episodes(copy).episodes, strict=True):
        assert np.array_equal(first.images, second.images)
        assert np.array_equal(first.actions, second.actions)


def test_ratios_are_of_pairs_on_one_bag(bag: Path) -> None:
    row = compare(bag, 250, 3, quiet)
    assert len(row["ratios"]) == 3
    assert row["ratio"] == sorted(row["ratios"])[1]
    assert row["stream_s"] > 0


def test_frames_that_are_missing_are_no_result(bag: Path) -> None:
    with pytest.raises(RuntimeError, match="250 of 251 frames"):
        stream_seconds(bag, 251)


def test_the_memory_is_that_of_a_process_of_its_own(bag: Path) -> None:
    held = np.ones(300_000_000, dtype=np.uint8)  # in this process: it must not count
    assert 20e6 < peak_bytes(bag, 250) < 250e6
    assert held[-1] == 1


def test_a_full_disk_is_said_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UnlearningError, match="no room for the bags"):
        require_space(tmp_path, 1e18)


def test_the_figures_of_reading_and_indexing(tmp_path: Path) -> None:
    said: set[str] = set()
    settings = Settings(tmp_path / "bags", ("read", "index"), 0.01, 0.005, pairs=1, size=64)
    document = measure(settings, lambda what, done, total: said.add(what))
    values = {figure["name"]: figure["value"] for figure in document["figures"]}
    assert values["read_ratio"] > 0
    assert values["index_seconds"] > 0
    assert "peak_growth_mb_per_gb" not in values  # bags too small to say
    assert document["indexing"]["frames"] == 180
    assert [row["bag"] for row in document["reading"]] == ["unchecked", "zstd", "recorded"]
    assert document["sizes"]["read_gb"] == 0.01
    assert {"reading the large bag", "indexing"} <= said
    assert list((tmp_path / "bags").iterdir()) == []


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bag_making, "ROLLOUT_FRAMES", 20)
    out = tmp_path / "bags.json"
    options = ["--only", "index", "--hours", "0.001", "--folder", str(tmp_path / "bags"), "--json", str(out)]
    result = CliRunner().invoke(app, ["bench", "bags", *options])
    assert result.exit_code == 0, result.output
    assert "index_seconds" in result.output
    assert json.loads(out.read_text())["indexing"] == {
        "frames": 36,
        "bytes": pytest.approx(5.5e6, rel=0.1),
        "episodes": 2,
    }
    wrong = CliRunner().invoke(app, ["bench", "bags", "--only", "reed"])
    assert wrong.exit_code != 0
