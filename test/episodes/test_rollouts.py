"""How a rollout ended and what it did, also where topics contradict each other or are missing."""

from __future__ import annotations

import pytest

from vlaforget_ros.episodes import Phase, read_episodes

from .conftest import SECOND, STEP, motion, picture

SUCCEEDED, FAILED, ABORTED = 1, 2, 3


def frames(tape, rollout: str = "r0", start: int = SECOND, count: int = 3, adapter: str = "") -> None:
    for tick in range(count):
        tape.image(start + tick * STEP, picture(tick, 0))
        tape.action(start + tick * STEP, motion(tick, 0), rollout=rollout, adapter=adapter)


@pytest.mark.parametrize(
    ("end", "outcome", "success", "phase", "problem"),
    [
        (SUCCEEDED, True, True, Phase.SUCCEEDED, None),
        (FAILED, False, False, Phase.FAILED, None),
        (ABORTED, None, None, Phase.ABORTED, None),
        (FAILED, None, False, Phase.FAILED, "outcome_missing"),
        (SUCCEEDED, None, True, Phase.SUCCEEDED, "outcome_missing"),
        (SUCCEEDED, False, False, Phase.SUCCEEDED, "phase_contradicts"),
        (None, None, None, Phase.ABORTED, "end_missing"),
        (None, True, True, Phase.SUCCEEDED, "end_missing"),
    ],
)
def test_ends(make_tape, end, outcome, success, phase, problem) -> None:
    tape = make_tape()
    tape.rollout(0, 0)
    frames(tape)
    if outcome is not None:
        tape.outcome(5 * SECOND, outcome)
    if end is not None:
        tape.rollout(6 * SECOND, end)
    report = read_episodes(tape.close())
    (episode,) = report.episodes
    assert episode.success is success
    assert episode.phase is phase
    assert [p.kind for p in report.problems] == ([problem] if problem else [])


def test_an_outcome_after_the_end_still_counts(make_tape) -> None:
    tape = make_tape()
    tape.rollout(0, 0)
    frames(tape)
    tape.rollout(6 * SECOND, FAILED)
    tape.outcome(60 * SECOND, True)
    report = read_episodes(tape.close())
    assert report.episodes[0].success is True
    assert report.count("phase_contradicts") == 1


def test_the_last_of_several_outcomes_counts(make_tape) -> None:
    tape = make_tape()
    tape.rollout(0, 0)
    frames(tape)
    tape.outcome(5 * SECOND, True)
    tape.outcome(9 * SECOND, False)
    tape.rollout(10 * SECOND, FAILED)
    report = read_episodes(tape.close())
    assert report.episodes[0].success is False
    assert report.count("outcome_contradicts") == 2


def test_a_recording_that_began_too_late(make_tape) -> None:
    tape = make_tape()
    frames(tape)
    tape.rollout(6 * SECOND, SUCCEEDED, instruction="close the faucet")
    report = read_episodes(tape.close())
    assert report.episodes[0].instruction == "close the faucet"
    assert report.count("start_missing") == 1


def test_actions_of_an_unknown_rollout_make_no_episode(make_tape) -> None:
    tape = make_tape()
    frames(tape, rollout="ghost")
    report = read_episodes(tape.close())
    assert report.episodes == ()
    assert report.count("rollout_unknown") == 1


def test_violations_go_to_their_rollout_in_order_of_time(make_tape) -> None:
    tape = make_tape()
    for number in range(2):
        start = SECOND * (1 + 10 * number)
        tape.rollout(start, 0, f"r{number}")
        frames(tape, f"r{number}", start)
        tape.rollout(start + SECOND, SUCCEEDED, f"r{number}")
    tape.violation(12 * SECOND, "r1", "late")
    tape.violation(11 * SECOND, "r1", "early")
    tape.violation(5 * SECOND, "")
    report = read_episodes(tape.close())
    clean, unsafe = report.episodes
    assert not clean.violated
    assert [v.rule for v in unsafe.violations] == ["early", "late"]
    assert unsafe.violations[0].severity == "STOP"
    assert (unsafe.violations[0].value, unsafe.violations[0].limit) == (0.5, 0.25)
    assert report.count("outside_rollouts") == 1


def test_a_swap_during_a_rollout_is_reported(make_tape) -> None:
    tape = make_tape()
    tape.rollout(0, 0)
    frames(tape)
    frames(tape, start=3 * SECOND, count=2, adapter="beef" * 16)
    tape.rollout(6 * SECOND, SUCCEEDED)
    report = read_episodes(tape.close())
    assert report.episodes[0].adapter_digest == ""
    assert len(report.episodes[0]) == 5
    assert report.count("actions_of_other_adapter") == 2
