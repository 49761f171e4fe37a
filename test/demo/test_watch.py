"""Ctrl-C ends the demo even where Python loses the interrupt."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from vlaforget_ros.demo.graph import _Watch

pytestmark = pytest.mark.ros


class _Supervisor:
    """Says that all processes run, until told otherwise."""

    def __init__(self) -> None:
        self.runs = True

    def check(self) -> bool:
        return self.runs


@pytest.fixture
def supervisor() -> _Supervisor:
    return _Supervisor()


@pytest.fixture
def watch(supervisor: Any) -> Iterator[_Watch]:
    made = _Watch(supervisor, grace_s=0.1)
    before = signal.signal(signal.SIGINT, made.interrupt)
    yield made
    signal.signal(signal.SIGINT, before)


def test_a_lost_interrupt_is_raised_again(watch: _Watch) -> None:
    with watch:
        with contextlib.suppress(KeyboardInterrupt):  # as Python does it within a destructor
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            threading.Event().wait(30.0)
    assert not watch.died


def test_nothing_is_raised_while_nobody_interrupts(watch: _Watch) -> None:
    with watch:
        assert not threading.Event().wait(0.5)


def test_a_dead_process_interrupts(watch: _Watch, supervisor: _Supervisor) -> None:
    with watch:
        supervisor.runs = False
        with pytest.raises(KeyboardInterrupt):
            threading.Event().wait(30.0)
    assert watch.died
