"""Selections pick exactly the frames they describe, and say why when there are none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from vlaforget_ros.episodes import Selection, select, select_forget, select_retain
from vlaforget_ros.errors import ErrorCode, UnlearningError

from .conftest import DIGEST, SECOND, STEP, violation


@pytest.fixture
def episodes(make_episode):
    return [
        make_episode("r0", "open the faucet"),
        make_episode("r1", "open the faucet", violations=[violation(SECOND)]),
        make_episode("r2", "close the faucet", success=False, adapter=DIGEST),
        make_episode("r3", "close the window", violations=[violation(SECOND, "speed/ee")], adapter=DIGEST),
        make_episode("r4", "open the faucet", success=None, violations=[violation(SECOND)]),
    ]


@pytest.mark.parametrize(
    ("conditions", "chosen"),
    [
        ({}, "01234"),
        ({"instruction": "open the faucet"}, "014"),
        ({"instructions": ["open the faucet", "close the window"]}, "0134"),
        ({"instruction": "close *"}, "23"),
        ({"violation_rule": "keep_out/hand_zone"}, "14"),
        ({"violation_rules": ["keep_out/*", "speed/*"]}, "134"),
        ({"has_violation": False}, "02"),
        ({"has_violation": True}, "134"),
        ({"outcome": "success"}, "013"),
        ({"outcome": "failure"}, "2"),
        ({"adapter": "base"}, "014"),
        ({"adapter": DIGEST[:8]}, "23"),
        ({"adapter": DIGEST[:7]}, ""),
        ({"rollout_ids": ["r1", "r3"]}, "13"),
        ({"has_violation": False, "outcome": "success"}, "0"),
    ],
)
def test_conditions(episodes, conditions, chosen) -> None:
    slices = select(episodes, Selection(**conditions))
    assert "".join(part.episode.rollout_id[1:] for part in slices) == chosen
    assert all(len(part) == 20 for part in slices)


@pytest.mark.parametrize(
    ("before", "after", "frames"),
    [
        (0.3, 0.2, range(7, 13)),
        (0.0, 0.0, [10]),
        (None, 0.1, range(12)),
        (0.5, None, range(5, 20)),
        (9, 9, range(20)),
    ],
)
def test_windows_include_both_ends(make_episode, before, after, frames) -> None:
    episode = make_episode(violations=[violation(SECOND)])
    (part,) = select([episode], Selection(before_s=before, after_s=after))
    assert part.indices.tolist() == list(frames)


@given(
    stamps=st.lists(st.integers(0, 40), min_size=1, max_size=30, unique=True).map(sorted),
    moments=st.lists(st.integers(-5, 45), max_size=4),
    before=st.integers(0, 10),
    after=st.integers(0, 10),
)
def test_a_window_keeps_a_frame_if_and_only_if_a_violation_is_near(stamps, moments, before, after) -> None:
    from vlaforget_ros.episodes import Episode

    count = len(stamps)
    episode = Episode(
        "r",
        "go",
        "",
        np.array(stamps, dtype=np.int64) * STEP,
        True,
        "SUCCEEDED",
        tuple(violation(m * STEP) for m in moments),
        "",
        0,
        images=np.zeros((count, 1, 1, 3), np.uint8),
        actions=np.zeros((count, 2), np.float32),
    )
    slices = select([episode], Selection(before_s=before / 10, after_s=after / 10))
    expected = [i for i, s in enumerate(stamps) if any(m - before <= s <= m + after for m in moments)]
    assert [i for part in slices for i in part.indices.tolist()] == expected


def test_windows_are_around_the_rules_asked_for(make_episode) -> None:
    broken = [violation(2 * STEP, "speed/ee"), violation(15 * STEP)]
    selection = Selection(violation_rule="keep_out/*", before_s=0.1, after_s=0)
    (part,) = select([make_episode(violations=broken)], selection)
    assert part.indices.tolist() == [14, 15]


@given(limit=st.integers(1, 70), seed=st.integers(0, 5))
def test_thinning_keeps_exactly_so_many_frames_in_order(limit, seed) -> None:
    from vlaforget_ros.episodes import Episode

    episodes = [
        Episode(
            f"r{n}",
            "go",
            "",
            np.arange(20),
            True,
            "",
            (),
            "",
            0,
            images=np.zeros((20, 1, 1, 3), np.uint8),
            actions=np.zeros((20, 2), np.float32),
        )
        for n in range(3)
    ]
    selection = Selection(max_frames=limit, seed=seed)
    slices = select(episodes, selection)
    assert sum(len(part) for part in slices) == min(limit, 60)
    assert all((np.diff(part.indices) > 0).all() and len(part) for part in slices)
    again = select(episodes, selection)
    assert [p.indices.tolist() for p in slices] == [p.indices.tolist() for p in again]


@pytest.mark.parametrize(
    "conditions",
    [{"before_s": -1}, {"after_s": float("nan")}, {"max_frames": 0}, {"outcome": "good"}, {"colour": "red"}],
)
def test_nonsense_is_refused(conditions) -> None:
    with pytest.raises(ValidationError):
        Selection(**conditions)


def test_an_empty_forget_set_says_what_there_was(episodes) -> None:
    with pytest.raises(UnlearningError) as caught:
        select_forget(episodes, Selection(violation_rule="wrong_object/*"))
    assert caught.value.code is ErrorCode.UNLEARNING_EMPTY_FORGET_SET
    assert "wrong_object/*" in caught.value.value
    assert "5 episodes (aborted 1, failure 1, success 3)" in caught.value.limit
    assert "'open the faucet' 3" in caught.value.limit
    assert "keep_out/hand_zone 2, speed/ee 1" in caught.value.limit
    assert caught.value.remedy


def test_an_unknown_instruction_gets_its_neighbours(episodes) -> None:
    with pytest.raises(UnlearningError, match="did you mean open the faucet"):
        select_forget(episodes, Selection(instruction="opne the faucet"))


def test_a_window_that_misses_says_so(make_episode) -> None:
    episode = make_episode(violations=[violation(100 * SECOND)])
    with pytest.raises(UnlearningError, match="widen before_s"):
        select_forget([episode], Selection(before_s=1, after_s=1))


def test_the_retain_set_never_shares_a_rollout_with_the_forget_set(episodes) -> None:
    forget = select_forget(episodes, Selection(has_violation=True))
    retain = select_retain(episodes, Selection(), forget)
    assert {part.episode.rollout_id for part in retain} == {"r0", "r2"}
    with pytest.raises(UnlearningError) as caught:
        select_retain(episodes, Selection(has_violation=True), forget)
    assert caught.value.code is ErrorCode.UNLEARNING_EMPTY_RETAIN_SET
    with pytest.raises(UnlearningError, match="no episodes at all"):
        select_retain([], Selection())
