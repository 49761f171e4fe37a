"""Frame sets: packing, batches, splits and digests are functions of their input and seed alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vlaforget_ros.episodes import Selection, concat, frames_of, select
from vlaforget_ros.errors import ErrorCode, UnlearningError


@pytest.fixture
def frames(make_episode):
    episodes = [make_episode(f"r{n}", f"task {n % 2}", frames=10 + n) for n in range(5)]
    return frames_of(select(episodes, Selection()), "five episodes")


def test_packing_keeps_rows_together(frames) -> None:
    assert len(frames) == 60
    assert frames.images.shape == (60, 8, 8, 3)
    assert frames.actions.dtype == np.float32
    assert frames.episode_count == 5
    for row in range(60):
        frame, rollout = frames.actions[row]
        assert frames.images[row, 0, 0, :2].tolist() == [frame, rollout]
        assert frames.episodes[row] == rollout
        assert frames.instructions[row] == f"task {int(rollout) % 2}"


def test_batches_are_one_deterministic_pass(frames) -> None:
    def order(seed: int) -> list[list[float]]:
        return [b.actions.tolist() for b in frames.batches(8, np.random.default_rng(seed))]

    assert order(1) == order(1)
    assert order(1) != order(2)
    assert [len(b) for b in order(1)] == [8] * 7 + [4]
    assert sorted(row for batch in order(1) for row in batch) == sorted(frames.actions.tolist())
    assert [len(b) for b in frames.batches(8, np.random.default_rng(0), drop_last=True)] == [8] * 7


def test_a_sample_may_be_larger_than_the_set(frames) -> None:
    few = frames.take(np.arange(3))
    assert len(few.sample(7, np.random.default_rng(0))) == 7
    assert few.sample(3, np.random.default_rng(0)).actions[:, 0].tolist() != [0, 0, 0]


def test_an_episode_is_never_on_both_sides_of_a_split(frames) -> None:
    for share, held in ((0.2, 1), (0.4, 2), (0.0, 1), (1.0, 4)):
        training, held_out = frames.split(share, seed=3)
        assert held_out.episode_count == held
        assert not set(training.episodes) & set(held_out.episodes)
        assert len(training) + len(held_out) == 60
    assert training.origin == "five episodes, training"
    same, _ = frames.split(0.4, seed=7)
    again, _ = frames.split(0.4, seed=7)
    assert same.digest() == again.digest()


def test_one_episode_cannot_be_split(frames) -> None:
    with pytest.raises(UnlearningError, match="2 episodes"):
        frames.take(frames.episodes == 0).split(0.5, 0)


def test_concat_keeps_episodes_apart_and_names_the_sources(frames) -> None:
    both = concat([frames, frames.take(frames.episodes == 3)])
    assert both.episode_count == 6
    assert set(both.episodes) == set(range(6))
    assert both.origin == "five episodes + five episodes"
    assert concat([frames], "renamed").origin == "renamed"


def test_what_does_not_fit_is_refused(frames, make_episode) -> None:
    small = frames_of(select([make_episode(images=np.zeros((3, 4, 4, 3), np.uint8))], Selection()))
    for call in (lambda: concat([frames, small]), lambda: concat([]), lambda: frames_of([])):
        with pytest.raises(UnlearningError, match="cannot be put together") as caught:
            call()
        assert caught.value.code is ErrorCode.UNLEARNING_BAD_REQUEST
    with pytest.raises(UnlearningError, match="do not fit together"):
        replace(frames, actions=frames.actions[:-1])


def test_weights(frames) -> None:
    assert frames.weights.tolist() == [1.0] * 60
    heavy = frames.with_weight(2.5)
    assert heavy.weights.dtype == np.float32
    assert concat([frames, heavy]).weights.mean() == pytest.approx(1.75)


def test_the_digest_covers_everything_training_sees(frames) -> None:
    digest = frames.digest()
    assert len(digest) == 64
    assert replace(frames, origin="elsewhere").digest() == digest
    images, actions = frames.images.copy(), frames.actions.copy()
    images[7, 1, 1, 1] ^= 1
    actions[3, 1] += 1e-6
    words = ("task one", *frames.instructions[1:])
    changed = [
        replace(frames, images=images),
        replace(frames, actions=actions),
        replace(frames, instructions=words),
        replace(frames, episodes=frames.episodes + 1),
        frames.with_weight(0.5),
        frames.take(np.arange(59)),
        frames.take(np.arange(60)[::-1]),
    ]
    assert len({digest, *(f.digest() for f in changed)}) == 1 + len(changed)
