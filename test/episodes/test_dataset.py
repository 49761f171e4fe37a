"""Frame sets: packing, joining and digests."""

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
        assert frames.episodes[row] == f"r{rollout:.0f}"
        assert frames.instructions[row] == f"task {int(rollout) % 2}"


def test_frames_without_episodes_stand_alone(frames) -> None:
    alone = replace(frames, episodes=np.zeros(0, dtype=np.str_))
    assert alone.episode_count == 60


def test_taking_frames_keeps_their_desired_actions(frames) -> None:
    taken = replace(frames, desired=frames.actions + 1).take(frames.episodes == "r2")
    assert len(taken) == 12
    assert taken.desired.tolist() == (taken.actions + 1).tolist()


def test_concat_knows_an_episode_again_and_names_the_sources(frames) -> None:
    both = concat([frames, frames.take(frames.episodes == "r3")])
    assert len(both) == 60 + 13
    assert both.episode_count == 5
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
    with pytest.raises(UnlearningError, match="do not fit together"):
        replace(frames, desired=frames.actions[:-1])


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
        replace(frames, episodes=np.char.add(frames.episodes, "x")),
        replace(frames, desired=frames.actions),
        replace(frames, desired=frames.actions + 1),
        frames.take(np.arange(59)),
        frames.take(np.arange(60)[::-1]),
    ]
    assert len({digest, *(f.digest() for f in changed)}) == 1 + len(changed)
