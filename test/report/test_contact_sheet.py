"""The page of an episode: which frames it shows, which of them it marks, and that it can be read."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vlaforget_ros.episodes import Episode, Problem, Violation
from vlaforget_ros.episodes.catalogue.glimpse import glimpse_of
from vlaforget_ros.report.action_plot import panels
from vlaforget_ros.report.contact_sheet import RED, WIDTH, choose, contact_sheet, save_sheet

STEP = 100_000_000
RED_PIXEL = tuple(int(RED[i : i + 2], 16) for i in (1, 3, 5))


def episode(frames: int, broken: list[int], size: tuple[int, int] = (16, 16), numbers: int = 7) -> Episode:
    """Frame k is a picture of colour (0, k, 255); rule/<k> is broken a little after frame k."""
    stamps = 5 * STEP + STEP * np.arange(frames, dtype=np.int64)
    return Episode(
        rollout_id="r0",
        instruction="open the faucet",
        adapter_digest="",
        stamps_ns=stamps,
        success=True,
        phase="SUCCEEDED",
        violations=tuple(
            Violation(f"rule/{k}", "STOP", int(stamps[k]) + STEP // 3, 0.5, 0.25, "m/s", "too fast")
            for k in broken
        ),
        source="bag",
        dropped_frames=0,
        images=np.stack([np.full((*size, 3), (0, k, 255), np.uint8) for k in range(frames)]),
        actions=np.random.default_rng(0).normal(size=(frames, numbers)).astype(np.float32),
    )


def page_of(shown: Episode, frames: int = 24, **more: Any) -> Image.Image:
    return contact_sheet(glimpse_of(shown, lambda info: choose(info, frames).indices), **more)


def marked(page: Image.Image) -> list[int]:
    """Frames between two upright red lines as high as a picture."""
    pixels = np.asarray(page)
    red = np.all(pixels == RED_PIXEL, axis=2)
    found = []
    for row in range(0, len(red), 20):
        starts = np.flatnonzero(red[row] & ~np.roll(red[row], 1))
        for left, right in itertools.pairwise(starts):
            middle = pixels[row, (left + right) // 2]
            upright = red[row - 20 : row + 20, left + 1].all() and red[row - 20 : row + 20, right + 1].all()
            if upright and middle[0] == 0 and middle[2] == 255:
                found.append(int(middle[1]))
    return sorted(set(found))


@pytest.mark.parametrize("size", [(16, 16), (90, 160), (224, 224)])
def test_frames_of_violations_are_framed_in_red_and_no_others(size: tuple[int, int]) -> None:
    page = page_of(episode(100, [13, 14, 77], size))
    assert page.width == WIDTH
    assert marked(page) == [13, 14, 77]
    clean = np.asarray(page_of(episode(100, [], size)))
    assert not np.any(np.all(clean == RED_PIXEL, axis=2))


@given(
    frames=st.integers(1, 300),
    count=st.integers(1, 96),
    broken=st.lists(st.integers(0, 299), max_size=12, unique=True),
)
def test_frames_are_even_and_every_violation_is_shown(frames: int, count: int, broken: list[int]) -> None:
    broken = [k for k in broken if k < frames]
    whole = dataclasses.replace(
        episode(1, []),
        stamps_ns=STEP * np.arange(frames, dtype=np.int64),
        violations=tuple(Violation("r", "STOP", STEP * k, 0.0, 0.0, "", "") for k in broken),
    )
    shown = choose(whole, count)
    assert np.all(np.diff(shown.indices) > 0)
    assert set(broken) <= set(shown.indices.tolist())
    assert sorted(shown.rules) == sorted(broken)
    assert len(shown.indices) == min(frames, max(count, len(broken)))
    assert shown.hidden == 0


def test_of_too_many_violations_some_are_shown_and_the_page_says_so() -> None:
    shown = choose(episode(200, list(range(150))), 24, most=48)
    assert len(shown.indices) == len(shown.rules) == 48
    assert shown.hidden == 102


@pytest.mark.parametrize("numbers", [1, 4, 7, 9])
def test_a_page_of_whatever_there_is(numbers: int, tmp_path: Path) -> None:
    one = dataclasses.replace(
        episode(1, [0], numbers=numbers), instruction="$x_1$ " * 40, phase="ABORTED", success=None
    )
    page = page_of(one, problems=[Problem("k", "r0", 1, "a long tale " * 30)])
    save_sheet(page, tmp_path / "new" / "page.png")
    with Image.open(tmp_path / "new" / "page.png") as read:
        assert read.size == page.size
    white = np.asarray(page)[:, -10:]
    assert np.all(white == 255), "text runs out of the page"


def test_numbers_of_an_action_are_put_together_by_their_kind() -> None:
    assert [panel.names for panel in panels(4)] == [("dx", "dy", "dz"), ("gripper",)]
    assert [panel.columns for panel in panels(7)] == [(0, 1, 2), (3, 4, 5), (6,)]
    assert [panel.names for panel in panels(3)] == [("a0", "a1", "a2")]
    named = panels(3, ["gripper_left", "joint1", "joint2"])
    assert [panel.columns for panel in named] == [(1, 2), (0,)]
