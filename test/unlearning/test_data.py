"""Splits, batches and digests of frames."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vlaforget_ros.episodes import FrameSet
from vlaforget_ros.unlearning.data import EditData, Sampler, split


def made(episodes: str) -> FrameSet:
    count = len(episodes)
    images = np.zeros((count, 2, 2, 3), np.uint8)
    return FrameSet(images, ("x",) * count, np.zeros((count, 4), np.float32), np.array(list(episodes)))


def letters(frames: FrameSet, rows: np.ndarray) -> set[str]:
    return set(frames.episodes[rows].tolist())


def test_held_out_frames_are_from_other_episodes() -> None:
    frames = made("aabbccd")
    found = split({"forget": frames}, 0.3, seed=0)
    train, held = found.train["forget"], found.held["forget"]
    assert sorted([*train, *held]) == list(range(7))
    assert not letters(frames, train) & letters(frames, held)
    assert found.unheld == ()
    again = split({"forget": frames}, 0.3, seed=0)
    assert np.array_equal(train, again.train["forget"])


def test_at_least_one_episode_on_each_side_unless_there_is_only_one() -> None:
    found = split({"forget": made("aab"), "retain": made("cc")}, 0.01, seed=0)
    assert len(found.train["forget"])
    assert len(found.held["forget"])
    assert found.train["retain"].tolist() == found.held["retain"].tolist() == [0, 1]
    assert found.unheld == ("retain",)


ids = st.text(st.sampled_from("abcdefgh"), min_size=1, max_size=12)


@given(forget=ids, retain=ids, boundary=ids, share=st.floats(0.05, 0.9), seed=st.integers(0, 99))
def test_no_set_trains_on_what_another_is_measured_on(
    forget: str, retain: str, boundary: str, share: float, seed: int
) -> None:
    sets = {"forget": made(forget), "retain": made(retain), "boundary": made(boundary)}
    found = split(sets, share, seed)
    trained = {letter for name, frames in sets.items() for letter in letters(frames, found.train[name])}
    for name, frames in sets.items():
        held = letters(frames, found.held[name])
        assert held
        assert len(found.train[name])
        assert name in found.unheld or not held & trained
        alone = len(set(frames.episodes.tolist())) == 1
        assert not alone or name in found.unheld


def test_one_episode_in_two_sets_is_held_out_of_both_and_each_set_has_its_share() -> None:
    many = [chr(ord("a") + n) for n in range(20)]
    sets = {"retain": made("".join(many)), "boundary": made("".join(many[:10]))}
    for seed in range(20):
        found = split(sets, 0.2, seed)
        held = {name: letters(frames, found.held[name]) for name, frames in sets.items()}
        assert len(held["boundary"]) == 2
        assert len(held["retain"]) == 4
        assert held["boundary"] == held["retain"] & set(many[:10])


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
