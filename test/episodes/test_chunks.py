"""Recorded single actions as the chunks of a policy that decides several at once."""

from __future__ import annotations

import numpy as np

from vlaforget_ros.episodes.chunks import chunked
from vlaforget_ros.episodes.types import Episode, Phase


def _episode(length: int) -> Episode:
    actions = np.stack([np.arange(length), 10.0 * np.arange(length)], axis=1).astype(np.float32)
    return Episode(
        "a", "open", "", np.arange(length), True, Phase.SUCCEEDED, (), "bag", 0,
        images=np.zeros((length, 4, 4, 3), np.uint8), actions=actions,
    )  # fmt: skip


def test_each_image_gets_its_action_and_the_following_ones() -> None:
    found = chunked(_episode(4), 3).actions
    assert found[0].tolist() == [0, 0, 1, 10, 2, 20]
    # Behind the end the last one goes on.
    assert found[2].tolist() == [2, 20, 3, 30, 3, 30]
    assert found[3].tolist() == [3, 30] * 3


def test_chunks_of_one_and_empty_episodes_are_left_alone() -> None:
    episode, empty = _episode(3), _episode(0)
    assert chunked(episode, 1) is episode
    assert chunked(empty, 5) is empty
