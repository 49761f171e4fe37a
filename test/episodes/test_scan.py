"""Scanning a bag tells what reading it would, without decoding an image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlaforget_ros.episodes import EpisodeInfo, EpisodeWriter, read_episodes, reader, scan_episodes

from .conftest import STEP, Tape, write_rollouts


@pytest.mark.parametrize("compressed", ["", "jpeg"])
def test_a_scan_agrees_with_reading(tmp_path: Path, compressed: str) -> None:
    with EpisodeWriter(tmp_path / "bag", compressed=compressed) as writer:
        write_rollouts(writer)
    read, scanned = read_episodes(tmp_path / "bag"), scan_episodes(tmp_path / "bag")
    assert scanned.problems == read.problems
    for info, episode in zip(scanned.episodes, read.episodes, strict=True):
        for field in fields(EpisodeInfo):
            assert np.array_equal(getattr(info, field.name), getattr(episode, field.name)), field.name
        assert info.seconds == pytest.approx(STEP * 11 / 1e9)


def test_a_scan_decodes_no_image(small_bag: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(_: Any) -> np.ndarray:
        raise AssertionError("an image was decoded")

    monkeypatch.setattr(reader, "decode", decode)
    assert [len(info) for info in scan_episodes(small_bag).episodes] == [12, 12]


def test_an_empty_rollout_is_a_problem(make_tape: Callable[..., Tape]) -> None:
    tape = make_tape()
    tape.rollout(1, 0)
    tape.action(2, [0.0] * 4)
    tape.rollout(3, 1)
    path = tape.close()
    assert scan_episodes(path).problems == read_episodes(path).problems
    assert scan_episodes(path).count("episode_empty") == 1


def test_only_the_named_rollouts_are_read(small_bag: Path) -> None:
    whole, part = read_episodes(small_bag), read_episodes(small_bag, rollouts={"r1"})
    (episode,) = part.episodes
    assert np.array_equal(episode.images, whole.episodes[1].images)
    assert episode.dropped_frames == 0
