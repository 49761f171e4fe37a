"""A few images of an episode are those that reading all of it gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlaforget_ros.episodes import EpisodeInfo, EpisodeWriter, read_episodes
from vlaforget_ros.episodes.catalogue import glimpse
from vlaforget_ros.episodes.mapped import images
from vlaforget_ros.episodes.mapped.mapping import read_mapping
from vlaforget_ros.errors import UnlearningError

from .conftest import STEP, Tape, picture, write_rollouts, write_with_a_flipped_bit


def some(info: EpisodeInfo) -> np.ndarray:
    return np.arange(1, len(info), 4)


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("compressed", ["", "png"])
def test_a_glimpse_agrees_with_reading(tmp_path: Path, compressed: Any, storage: Any) -> None:
    with EpisodeWriter(tmp_path / "bag", compressed=compressed, storage=storage) as writer:
        write_rollouts(writer)
    whole = read_episodes(tmp_path / "bag").episodes[1]
    seen = glimpse.glimpse(tmp_path / "bag", "r1", some)
    assert seen.indices.tolist() == [1, 5, 9]
    assert np.array_equal(seen.images, whole.images[[1, 5, 9]])
    assert np.array_equal(seen.actions, whole.actions)
    assert np.array_equal(seen.info.stamps_ns, whole.stamps_ns)


def test_only_the_chosen_images_are_decoded(small_bag: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    decode = glimpse.decode

    def noted(message: Any) -> np.ndarray:
        image = decode(message)
        decoded.append(int(image[0, 0, 0]))
        return image

    monkeypatch.setattr(glimpse, "decode", noted)
    glimpse.glimpse(small_bag, "r0", some)
    assert decoded == [1, 5, 9]


def test_a_damaged_episode_can_be_looked_at(tmp_path: Path) -> None:
    write_with_a_flipped_bit(tmp_path / "bag")
    seen = glimpse.glimpse(tmp_path / "bag", "r1", some)
    assert seen.info.damage
    assert seen.images[:, 0, 0, 0].tolist() == [1, 5, 9]


def test_what_cannot_be_seen(small_bag: Path, make_tape: Callable[..., Tape]) -> None:
    with pytest.raises(UnlearningError, match="no frame of it"):
        glimpse.glimpse(small_bag, "r7", some)
    tape = make_tape()
    tape.rollout(1, 0)
    for k in range(4):
        pixels = picture(k, 0, 8 if k != 2 else 16)
        tape.image(STEP * (k + 1), pixels)
        tape.action(STEP * (k + 1), [0.0])
    path = tape.close()
    seen = glimpse.glimpse(path, "r0", lambda info: np.arange(len(info)))
    assert 16 not in seen.images.shape
    with pytest.raises(UnlearningError, match="broken"):
        glimpse.glimpse(path, "r0", lambda info: np.array([], dtype=np.int64))


MAPPING = """
image: image
action: {topic: action, fields: action}
instruction: {topic: rollout, field: instruction}
outcome: {topic: outcome, field: success}
"""


def test_by_a_mapping_only_the_chosen_images_are_decoded(
    small_bag: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "robot.yaml").write_text(MAPPING)
    topics = read_mapping(tmp_path / "robot.yaml")
    whole = read_episodes(small_bag, topics).episodes[0]
    decoded: list[int] = []
    decode = images.decode

    def noted(message: Any, encoding: str) -> np.ndarray:
        image = decode(message, encoding)
        decoded.append(int(image[0, 0, 0]))
        return image

    monkeypatch.setattr(images, "decode", noted)
    seen = glimpse.glimpse(small_bag, whole.rollout_id, some, topics)
    assert decoded == whole.images[[1, 5, 9], 0, 0, 0].tolist()
    assert seen.indices.tolist() == [1, 5, 9]
    assert np.array_equal(seen.images, whole.images[[1, 5, 9]])
    assert np.array_equal(seen.actions, whole.actions)
    assert np.array_equal(seen.info.stamps_ns, whole.stamps_ns)
    with pytest.raises(UnlearningError, match="no frame of it"):
        glimpse.glimpse(small_bag, "r7", some, topics)
