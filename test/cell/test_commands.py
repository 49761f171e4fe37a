"""When silence on the command topic means hold, with a clock by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from manual_clock import ManualClock

from vlaforget_ros.cell.commands import CommandStream

TICK_S, HOLD_S = 0.1, 0.15


@given(st.lists(st.floats(0.0, 0.099), min_size=1, max_size=50))
def test_commands_in_time_are_all_carried_out_and_never_held(delays: list[float]) -> None:
    clock = ManualClock(50.0)
    stream: CommandStream[int] = CommandStream(HOLD_S, clock)
    for number, delay in enumerate(delays):
        clock.now = 50.0 + number * TICK_S + delay
        stream.heard(number)
        clock.now = 50.0 + (number + 1) * TICK_S
        assert stream.take() == number
        assert not stream.silent


@given(st.floats(0.0, 0.099))
def test_an_arm_whose_commands_end_holds_within_two_and_a_half_ticks(delay: float) -> None:
    clock = ManualClock(50.0)
    stream: CommandStream[str] = CommandStream(HOLD_S, clock)
    clock.now += delay
    last = clock.now
    stream.heard("move")
    ticks = [50.0 + k * TICK_S for k in range(1, 5)]
    held = []
    for clock.now in ticks:
        if stream.take() is None and stream.silent:
            held.append(clock.now)
    assert held[0] - last <= HOLD_S + TICK_S + 1e-9
    assert len(held) >= 2


def test_before_the_first_command_and_after_a_reset_nothing_is_held() -> None:
    clock = ManualClock(50.0)
    stream: CommandStream[str] = CommandStream(HOLD_S, clock)
    clock.now += 10.0
    assert not stream.silent
    stream.heard("move")
    clock.now += 10.0
    assert stream.silent
    stream.clear()
    assert not stream.silent
    assert stream.take() is None


@pytest.mark.parametrize("hold_s", [0.0, -1.0])
def test_zero_never_holds(hold_s: float) -> None:
    clock = ManualClock(50.0)
    stream: CommandStream[str] = CommandStream(hold_s, clock)
    stream.heard("move")
    clock.now += 1e6
    assert not stream.silent
