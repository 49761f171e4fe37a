"""Frames are matched to actions by the observation stamp, whatever a transport drops, repeats or reorders."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlaforget_ros.episodes import read_episodes
from vlaforget_ros.episodes.matching import Frames, StampedAction, usable_actions

from .conftest import SECOND, STEP, Tape, motion, picture

# For each tick: how often the image and the action came, whether the action was a fault, and in which order.
TICK = st.tuples(st.integers(0, 2), st.integers(0, 2), st.sampled_from([0, 0, 0, 201]), st.booleans())


@settings(max_examples=30, deadline=None)
@given(ticks=st.lists(TICK, min_size=1, max_size=12), shuffle=st.randoms(use_true_random=False))
def test_exactly_the_ticks_with_image_and_action_become_frames(ticks, shuffle) -> None:
    events = []
    for tick, (images, actions, fault, action_first) in enumerate(ticks):
        events += [(tick + (0.9 if action_first else 0.0), "image", tick, 0)] * images
        events += [(tick + 0.5, "action", tick, fault)] * actions
    shuffle.shuffle(events)  # order of arrival; the stamps stay what they were
    with tempfile.TemporaryDirectory() as folder:
        tape = Tape(Path(folder) / "bag")
        tape.rollout(0, 0)
        for order, (_, kind, tick, fault) in enumerate(events):
            stamp, arrived = SECOND + tick * STEP, SECOND + order
            if kind == "image":
                tape.image(stamp, picture(tick, 0), arrived)
            else:
                tape.action(stamp, motion(tick, 0), arrived, fault=fault)
        tape.rollout(100 * SECOND, 2)
        report = read_episodes(tape.close())
    matched = [t for t, (images, actions, fault, _) in enumerate(ticks) if images and actions and not fault]
    if not matched:
        assert report.episodes == ()
        assert report.count("episode_empty") == 1
        return
    (episode,) = report.episodes
    assert episode.stamps_ns.tolist() == [SECOND + t * STEP for t in matched]
    assert episode.images[:, 0, 0, 0].tolist() == matched
    assert episode.actions[:, 0].tolist() == matched
    valid = [t for t, (_, actions, fault, _) in enumerate(ticks) if actions and not fault]
    assert report.count("actions_without_image") == len(valid) - len(matched)
    assert report.count("actions_faulted") == sum(a for _, a, fault, _ in ticks if fault)
    assert report.count("actions_repeated") == sum(a - 1 for _, a, fault, _ in ticks if a and not fault)
    inside = range(min(valid), max(valid) + 1)
    strays = sum(ticks[t][0] for t in inside if t not in valid)
    assert report.count("images_without_action") == strays
    faulted = report.count("actions_faulted")
    assert episode.dropped_frames == len(valid) - len(matched) + faulted + strays


def test_a_stamp_one_nanosecond_off_is_no_match(make_tape) -> None:
    tape = make_tape()
    tape.rollout(0, 0)
    tape.image(SECOND, picture(0, 0))
    tape.action(SECOND, motion(0, 0))
    tape.image(2 * SECOND + 1, picture(1, 0))
    tape.action(2 * SECOND, motion(1, 0))
    report = read_episodes(tape.close())
    assert len(report.episodes[0]) == 1
    assert report.count("actions_without_image") == 1


def test_stamps_that_repeat_after_a_restart_stay_with_their_rollout(make_tape) -> None:
    tape = make_tape()
    for number in range(2):
        base = number * 100 * SECOND
        tape.rollout(base, 0, f"r{number}")
        for tick in range(5):
            stamp = SECOND + tick * STEP  # the simulation's clock began anew, the recorder's did not
            tape.image(stamp, picture(tick, number), base + stamp)
            tape.action(stamp, motion(tick, number), base + stamp + 1, f"r{number}")
        tape.rollout(base + 50 * SECOND, 1, f"r{number}")
    first, second = read_episodes(tape.close()).episodes
    assert set(first.images[:, 0, 0, 1]) == {0}
    assert set(second.images[:, 0, 0, 1]) == {1}


def test_unusable_actions_are_left_out_and_counted(make_tape) -> None:
    tape = make_tape()
    tape.rollout(0, 0)
    values = [(0.0, 1.0), (np.nan, 1.0), (1.0, 2.0, 3.0), (), (np.inf, 0.0), (5.0, 0.0)]
    for tick, value in enumerate(values):
        tape.image(SECOND + tick * STEP, picture(tick, 0))
        tape.action(SECOND + tick * STEP, value)
    report = read_episodes(tape.close())
    assert report.episodes[0].actions[:, 0].tolist() == [0.0, 5.0]
    assert report.count("actions_non_finite") == 3
    assert report.count("actions_other_size") == 1


def test_images_that_change_size_are_left_out(make_tape) -> None:
    tape = make_tape()
    tape.rollout(0, 0)
    for tick, size in enumerate((8, 8, 16, 8)):
        tape.image(SECOND + tick * STEP, picture(tick, 0, size))
        tape.action(SECOND + tick * STEP, motion(tick, 0))
    report = read_episodes(tape.close())
    assert report.episodes[0].actions[:, 0].tolist() == [0, 1, 3]
    assert report.count("images_other_size") == 1


def test_the_first_answer_to_an_image_counts() -> None:
    late = StampedAction(7, 20, motion(2, 0), 0, "")
    early = StampedAction(7, 10, motion(1, 0), 0, "")
    usable = usable_actions([late, early])
    assert usable.actions == (early,)
    assert usable.repeated == 1


@pytest.mark.parametrize(("times", "kept"), [((5, 9, 12), 9), ((12, 15), 12), ((9,), 9)])
def test_of_several_images_the_last_before_the_action_counts(times, kept) -> None:
    frames = Frames([StampedAction(7, 10, motion(0, 0), 0, "")])
    for time_ns in times:
        if frames.takes(0, time_ns):
            frames.put(0, time_ns, np.full((2, 2, 3), time_ns, np.uint8))
    assert frames.images is not None
    assert frames.images[0, 0, 0, 0] == kept
