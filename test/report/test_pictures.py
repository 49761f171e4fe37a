"""Strips of rollouts, from arrays and from files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlaforget_ros.errors import ErrorCode, UnlearningError
from vlaforget_ros.report.pictures import read_strips, strip


def test_a_strip_shows_moments_spread_over_the_rollout(tmp_path: Path) -> None:
    frames = [np.full((4, 6, 3), 10 * number, np.uint8) for number in range(11)]
    found = strip(frames, count=3)
    assert found.shape == (4, 18, 3)
    assert found[0, ::6, 0].tolist() == [0, 50, 100]
    Image.fromarray(np.full((8, 12, 3), 70, np.uint8)).save(tmp_path / "a.png")
    mixed = strip([frames[0], tmp_path / "a.png"])
    assert mixed.shape == (4, 12, 3)
    assert mixed[0, -1, 0] == 70


def test_pairs_are_found_as_pictures_and_as_folders_of_frames(tmp_path: Path) -> None:
    picture = Image.fromarray(np.zeros((4, 4, 3), np.uint8))
    for name in ("faucet-0-before.jpg", "faucet-0-after.png", "lonely-before.png"):
        picture.save(tmp_path / name)
    for side in ("before", "after"):
        (tmp_path / f"window-{side}").mkdir()
        for number in range(2):
            picture.save(tmp_path / f"window-{side}" / f"{number}.png")
    found = {one.caption: one for one in read_strips(tmp_path)}
    assert set(found) == {"faucet-0", "window"}
    assert found["window"].after.shape == (4, 8, 3)


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    for name in ("a-before.png", "a-after.png"):
        (tmp_path / name).write_text("text")
    with pytest.raises(UnlearningError, match="no picture") as error:
        read_strips(tmp_path)
    assert error.value.code == ErrorCode.UNLEARNING_BAD_REQUEST
    with pytest.raises(UnlearningError, match="no pictures"):
        read_strips(tmp_path / "nowhere")
    with pytest.raises(UnlearningError, match="at least one frame"):
        strip([])
