"""Rates and gaps of stamps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlaforget_ros.episodes.catalogue.cadence import Cadence, cadence, moment

from .conftest import SECOND, STEP


@given(
    frames=st.integers(30, 200),
    lost=st.sets(st.integers(1, 28), max_size=5),
    jitter=st.integers(0, STEP // 10),
    seed=st.integers(0, 99),
)
def test_lost_frames_are_counted_whatever_the_jitter(
    frames: int, lost: set[int], jitter: int, seed: int
) -> None:
    stamps = STEP * np.arange(frames) + np.random.default_rng(seed).integers(0, jitter + 1, frames)
    kept = np.delete(stamps, sorted(lost))
    found = cadence(kept)
    assert found.missing == len(lost)
    assert found.gaps == sum(number - 1 not in lost for number in lost)
    assert found.median_hz == pytest.approx(10.0, rel=0.2)
    assert found.min_hz <= found.median_hz <= found.max_hz
    assert (found.longest_s > 0) == bool(lost)


@pytest.mark.parametrize("stamps", [[], [5], [5, 5], [5, 4]])
def test_without_a_step_there_is_no_rate(stamps: list[int]) -> None:
    assert cadence(np.array(stamps, dtype=np.int64)) == Cadence()


def test_stamps_for_a_person() -> None:
    assert moment(9_400_000_000) == "9.4 s"
    assert moment(1_790_000_000 * SECOND) == "2026-09-21 14:13:20 UTC"
