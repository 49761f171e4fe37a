"""Ctrl-C ends the demo even where Python loses the interrupt."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from manual_clock import ManualClock

from vlaforget_ros.demo import graph
from vlaforget_ros.demo.graph import _Watch

# Against an interrupt that never wakes the main thread: nothing else ends the waits below.
pytestmark = [pytest.mark.ros, pytest.mark.timeout(60)]

GRACE_S = 20.0


class _Supervisor:
    """Says that all processes run, until told otherwise."""

    def __init__(self) -> None:
        self.runs, self.looks = True, 0

    def check(self) -> bool:
        self.looks += 1
        return self.runs


class _Forgetful:
    """Is interrupted while it is destroyed."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


@pytest.fixture
def supervisor() -> _Supervisor:
    return _Supervisor()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def watch(supervisor: Any, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> Iterator[_Watch]:
    monkeypatch.setattr(graph, "_LOOK_S", 0.05)
    made = _Watch(supervisor, GRACE_S, clock)
    before = signal.signal(signal.SIGINT, made.interrupt)
    yield made
    signal.signal(signal.SIGINT, before)


def see(supervisor: _Supervisor, more: int) -> None:
    """Return when the watch has looked so many times more."""
    pause, until = threading.Event(), supervisor.looks + more
    while supervisor.looks < until:
        pause.wait(0.01)


def wait_after(begin: Callable[[], object]) -> None:
    """Whatever leads to an interrupt begins within the block that expects it: one that came before the block, on a
    machine that stands still for a moment, would end the whole session."""
    begin()
    threading.Event().wait()


def test_a_lost_interrupt_is_raised_again_after_a_while(
    watch: _Watch, supervisor: _Supervisor, clock: ManualClock
) -> None:
    with watch:
        with contextlib.suppress(KeyboardInterrupt):  # as a library may do it
            signal.raise_signal(signal.SIGINT)
        clock.now += GRACE_S
        see(supervisor, 3)  # so long it is left to clean up
        with pytest.raises(KeyboardInterrupt):
            wait_after(lambda: setattr(clock, "now", clock.now + 0.1))
        see(supervisor, 3)  # and after each interrupt anew
    assert not watch.died


def test_an_interrupt_that_a_destructor_lost_is_raised_again_at_once(
    watch: _Watch, capsys: pytest.CaptureFixture[str]
) -> None:
    with watch, pytest.raises(KeyboardInterrupt):
        wait_after(_Forgetful)
    assert capsys.readouterr().err == ""


def test_nothing_is_raised_while_nobody_interrupts(watch: _Watch, supervisor: _Supervisor) -> None:
    with watch:
        see(supervisor, 5)


def test_a_dead_process_interrupts_once(watch: _Watch, supervisor: _Supervisor) -> None:
    with watch:
        with pytest.raises(KeyboardInterrupt):
            wait_after(lambda: setattr(supervisor, "runs", False))
        # Nobody looks after the processes any more: a moment for a second interrupt, were there one.
        threading.Event().wait(0.2)
    assert watch.died
