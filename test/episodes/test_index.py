"""The index says what reading the bags says, and reads a bag only once."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlaforget_ros.episodes import EpisodeInfo, EpisodeWriter, TopicMap, Violation, scan_many
from vlaforget_ros.episodes.catalogue import index
from vlaforget_ros.episodes.catalogue.index import Index, build_index, find_entry, index_path, read_index
from vlaforget_ros.episodes.catalogue.index_file import BagLine
from vlaforget_ros.episodes.folders import find_bags
from vlaforget_ros.errors import ErrorCode, UnlearningError

from .conftest import DIGEST, STEP, Tape, violation, write_rollouts, write_with_a_flipped_bit


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "bags"
    for number in range(3):
        with EpisodeWriter(place / f"b{number}", compressed="jpeg" if number else "") as writer:
            write_rollouts(writer, rollouts=2, frames=5, first=2 * number)
    return place


def same(one: EpisodeInfo, other: EpisodeInfo) -> bool:
    return all(np.array_equal(getattr(one, f.name), getattr(other, f.name)) for f in fields(EpisodeInfo))


def test_an_index_says_what_a_scan_says(folder: Path) -> None:
    built = build_index(folder)
    scanned = scan_many(find_bags([folder]))
    for known in (built, read_index(folder), read_index(built.file)):
        assert known.report().problems == scanned.problems
        assert len(known.episodes) == 6
        for entry, info in zip(known.episodes, scanned.episodes, strict=True):
            assert same(entry.info, info)
            assert entry.health == ()
            assert entry.cadence.median_hz == pytest.approx(10.0)
    images = [entry.image for entry in built.episodes]
    assert [(i.width, i.height, i.encoding, i.topic) for i in images if i][::2] == [
        (8, 8, "rgb8", "/image"),
        (8, 8, "jpeg", "/image/compressed"),
        (8, 8, "jpeg", "/image/compressed"),
    ]


def test_only_new_and_changed_bags_are_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    scan = index.scan_episodes

    def noted(bag: Path, topics: TopicMap | None = None, *, damaged: bool = False) -> Any:
        read.append(bag.name)
        return scan(bag, topics, damaged=damaged)

    monkeypatch.setattr(index, "scan_episodes", noted)

    def build() -> tuple[Index, list[str]]:
        read.clear()
        return build_index(folder), list(read)

    assert build()[1] == ["b0", "b1", "b2"]
    assert build()[1] == []
    with EpisodeWriter(folder / "b3") as writer:
        write_rollouts(writer, rollouts=1, first=8)
    os.utime(folder / "b1" / "b1_0.mcap", ns=(1, 1))
    found, again = build()
    assert again == ["b1", "b3"]
    assert found.read == 2
    shutil.rmtree(folder / "b0")
    found, again = build()
    assert again == []
    assert found.gone == ("b0",)
    assert [entry.info.rollout_id for entry in read_index(folder).episodes] == ["r2", "r3", "r4", "r5", "r8"]


def test_other_topics_are_read_anew(folder: Path) -> None:
    build_index(folder)
    assert build_index(folder, TopicMap(namespace="")).read == 3
    assert build_index(folder, TopicMap(namespace="")).read == 0


def test_the_mapping_file_is_kept_in_the_index(folder: Path, tmp_path: Path) -> None:
    build_index(folder)
    build_index(folder, mapping=str(tmp_path / "m.yaml"))
    assert read_index(folder).header.mapping == str(tmp_path / "m.yaml")


def test_who_stops_it_goes_on_from_there(folder: Path) -> None:
    def stop(done: int, total: int, name: str) -> None:
        if name == "b2":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_index(folder, on_bag=stop)
    assert [line.bag for line in read_index(folder).lines] == ["b0", "b1"]
    seen: list[tuple[int, int, str]] = []
    assert build_index(folder, on_bag=lambda *state: seen.append(state)).read == 1
    assert seen == [(0, 1, "b2"), (1, 1, "")]
    assert [path.name for path in index_path(folder).parent.iterdir()] == ["episodes.jsonl"]


def test_unreadable_bags_are_listed_with_their_error(folder: Path) -> None:
    (folder / "b1" / "b1_0.mcap").write_bytes(b"noise")
    found = build_index(folder)
    assert list(found.unreadable) == [folder / "b1"]
    assert "[301" in found.unreadable[folder / "b1"]
    assert found.report().count("bag_unreadable") == 1
    assert len(found.episodes) == 4
    assert build_index(folder).read == 0
    for bag in ("b0", "b2"):
        shutil.rmtree(folder / bag)
    assert build_index(folder).episodes == []


def test_damaged_episodes_are_in_the_index_and_in_no_set(tmp_path: Path) -> None:
    write_with_a_flipped_bit(tmp_path / "bag")
    found = build_index(tmp_path / "bag")
    scanned = scan_many([tmp_path / "bag"])
    assert found.report().problems == scanned.problems
    assert [info.rollout_id for info in found.report().episodes] == ["r0", "r2"]
    entries = read_index(tmp_path / "bag").episodes
    assert [entry.info.rollout_id for entry in entries] == ["r0", "r1", "r2"]
    assert [bool(entry.info.damage) for entry in entries] == [False, True, False]
    assert any("episode_damaged" in what for what in entries[1].health)
    assert len(entries[1].info) == 10


@pytest.mark.parametrize("damage", ["format", "cut", "stamps", "empty"])
def test_a_damaged_index_or_one_of_another_version_is_built_anew(folder: Path, damage: str) -> None:
    file = build_index(folder).file
    first, second, *rest = file.read_text().splitlines()
    if damage == "format":
        first = json.dumps({**json.loads(first), "format": 99})
    elif damage == "cut":
        rest[-1] = rest[-1][:-20]
    elif damage == "stamps":
        line = json.loads(second)
        line["episodes"][0]["frames"] = 9
        second = json.dumps(line)
    file.write_text("" if damage == "empty" else "\n".join([first, second, *rest]))
    with pytest.raises(UnlearningError, match="index cannot be read") as caught:
        read_index(folder)
    assert caught.value.code is ErrorCode.UNLEARNING_BAG_UNREADABLE
    assert build_index(folder).read == 3
    assert len(read_index(folder).episodes) == 6


def test_folder_and_index_move_together(folder: Path, tmp_path: Path) -> None:
    build_index(folder)
    moved = folder.rename(tmp_path / "disk")
    assert build_index(moved).read == 0
    assert read_index(moved / ".vlaforget" / "episodes.jsonl").episodes[0].info.source == str(moved / "b0")


def test_the_index_of_one_bag_lies_beside_it(folder: Path) -> None:
    bag = folder / "b0"
    before = sorted(path.name for path in bag.iterdir())
    for place in (bag, bag / "b0_0.mcap"):
        found = build_index(place)
        assert found.episodes[0].info.source == str(place)
        assert build_index(place).read == 0
    assert sorted(path.name for path in bag.iterdir() if not path.name.startswith(".")) == before
    assert index_path(bag) == folder.absolute() / ".vlaforget" / "b0.episodes.jsonl"


def test_an_index_that_cannot_be_written_is_an_error_with_a_remedy(folder: Path, tmp_path: Path) -> None:
    (folder / ".vlaforget").touch()
    with pytest.raises(UnlearningError, match="--out") as caught:
        build_index(folder)
    assert caught.value.code is ErrorCode.UNLEARNING_BAG_UNWRITABLE
    assert len(build_index(folder, keep=False).episodes) == 6
    assert len(build_index(folder, out=tmp_path / "elsewhere" / "i.jsonl").episodes) == 6
    assert len(read_index(tmp_path / "elsewhere" / "i.jsonl").episodes) == 6


def test_health_of_an_episode(make_tape: Callable[..., Tape]) -> None:
    tape = make_tape()
    tape.rollout(1, 0)
    for number in (0, 1, 2, 3, 7, 8):
        tape.image(STEP * number, np.zeros((4, 4, 3), np.uint8))
        tape.action(STEP * number, [0.0])
    tape.action(STEP * 9, [0.0])
    (entry,) = build_index(tape.close()).episodes
    assert entry.cadence.missing == 3
    assert entry.health == ("1 gaps (3 frames)", "1 actions_without_image", "1 end_missing")


def test_a_rollout_is_found_by_its_beginning(folder: Path) -> None:
    entries = build_index(folder).episodes
    assert find_entry(entries, "r3").info.rollout_id == "r3"
    with pytest.raises(UnlearningError, match="candidates: r0, r1, r2"):
        find_entry(entries, "r")
    with pytest.raises(UnlearningError, match="no such rollout"):
        find_entry(entries, "x")


@given(
    steps=st.lists(st.integers(1, 2**40), max_size=30),
    start=st.integers(0, 2**61),
    value=st.sampled_from([0.5, math.inf, -math.inf, math.nan]),
)
def test_episodes_survive_the_file_exactly(steps: list[int], start: int, value: float) -> None:
    stamps = start + np.concatenate([[0], np.cumsum(steps)]).astype(np.int64)
    broken = Violation("speed/ee", "STOP", int(stamps[-1]), value, 0.25, "m/s", 'too "fast"\n')
    info = EpisodeInfo("ü", "open\nit", DIGEST, stamps, None, "ABORTED", (broken, violation(3)), "/bags/b", 4)
    line = BagLine(bag="b", files=[("b.mcap", 1, 2)], topics="")
    line.keep((), [info])
    text = line.model_dump_json()
    assert "\n" not in text
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    (back,) = BagLine.model_validate_json(text).episodes_of(Path("/bags/b"))
    assert np.array_equal(back.violations[0].value, value, equal_nan=True)
    assert back.violations[1:] == info.violations[1:]
    assert np.array_equal(back.stamps_ns, stamps)
    assert (back.rollout_id, back.instruction, back.success, back.dropped_frames) == (
        "ü",
        "open\nit",
        None,
        4,
    )
