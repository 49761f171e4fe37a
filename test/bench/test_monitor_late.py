"""The monitor's benchmark over DDS where an answer comes too late: it is not taken for that to a later pose."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = pytest.mark.ros

LATE = 5


class _Graph:
    """A client of a monitor that answers each pose in turn, but one of them after the benchmark gave up on it."""

    def __init__(self) -> None:
        self._poses: queue.Queue[Any] = queue.Queue()
        self._published, self._gave_up, self._told = 0, threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._answer)
        self._thread.start()

    def close(self) -> None:
        self._gave_up.set()
        self._poses.put(None)
        self._thread.join()

    def subscribe(self, topic: str, callback: Callable[..., None]) -> None:
        self._callback = callback

    def publisher(self, topic: str) -> tuple[Any, Callable[[Any], None]]:
        from geometry_msgs.msg import PoseStamped

        return PoseStamped, self._publish

    def now(self) -> Any:
        from builtin_interfaces.msg import Time

        if self._published >= LATE:  # the benchmark makes the next pose
            self._gave_up.set()
            self._told.wait()
        return Time()

    def _publish(self, pose: Any) -> None:
        self._published += 1
        self._poses.put((self._published, pose.pose.position.z))

    def _answer(self) -> None:
        while (asked := self._poses.get()) is not None:
            number, height_m = asked
            if number == LATE:
                self._gave_up.wait()
            info = {"received_timestamp": time.time_ns()}
            self._callback(SimpleNamespace(speed_scale=height_m / 2), info)
            if number == LATE:
                self._told.set()


@pytest.fixture
def graph() -> Iterator[_Graph]:
    made = _Graph()
    yield made
    made.close()


def test_a_late_answer_costs_one_pose(graph: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from vlaforget_ros.bench import monitor_live

    monkeypatch.setattr(monitor_live, "_WAIT_S", 0.5)
    statuses = monitor_live._Statuses(graph)
    took = monitor_live._latencies(graph, statuses, 20, None, lambda done, total: None)
    assert len(took) == 20
    given_up = [one.heard_s for one in took if one.arrived_s == monitor_live._WAIT_S]
    assert given_up
    assert all(0.0 < one.arrived_s <= one.heard_s for one in took)
