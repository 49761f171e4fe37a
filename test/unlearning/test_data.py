"""Splits, batches and digests of frames."""

from __future__ import annotations

import numpy as np

from vlaforget_ros.episodes import FrameSet
from vlaforget_ros.unlearning.data import EditData, Sampler, split


def made(episodes: list[int]) -> FrameSet:
    count = len(episodes)
    images = np.zeros((count, 2, 2, 3), np.uint8)
    return FrameSet(images, ("x",) * count, np.zeros((count, 4), np.float32), np.array(episodes))


def test_held_out_frames_are_from_other_episodes() -> None:
    frames = made([0, 0, 1, 1, 2, 2, 3])
    train, held = split(frames, 0.3, seed=0)
    assert sorted([*train, *held]) == list(range(7))
    assert not set(frames.episodes[train]) & set(frames.episodes[held])
    again = split(frames, 0.3, seed=0)
    assert np.array_equal(train, again[0])


def test_at_least_one_episode_on_each_side_unless_there_is_only_one() -> None:
    train, held = split(made([0, 0, 1]), 0.01, seed=0)
    assert len(train)
    assert len(held)
    train, held = split(made([5, 5]), 0.5, seed=0)
    assert train.tolist() == held.tolist() == [0, 1]


def test_a_sampler_uses_every_row_before_any_comes_again() -> None:
    sampler = Sampler(np.arange(10), 4, (1, 2))
    drawn = np.concatenate([sampler.draw() for _ in range(5)])
    assert sorted(drawn[:10]) == list(range(10))
    assert sorted(drawn[10:]) == list(range(10))
    again = Sampler(np.arange(10), 4, (1, 2))
    assert np.array_equal(np.concatenate([again.draw() for _ in range(5)]), drawn)
    other = Sampler(np.arange(10), 4, (1, 3))
    assert not np.array_equal(np.concatenate([other.draw() for _ in range(5)]), drawn)


def test_a_batch_is_never_larger_than_the_set() -> None:
    assert sorted(Sampler(np.array([3, 8]), 64, (0,)).draw()) == [3, 8]


def test_empty_optional_sets_are_left_out(data: EditData) -> None:
    nothing = data.boundary.take(np.zeros(0, dtype=np.int64)) if data.boundary else None
    found = EditData(data.forget, data.retain, nothing, None)
    assert list(found.sets()) == ["forget", "retain"]
    assert list(found.digests()) == ["forget", "retain"]
