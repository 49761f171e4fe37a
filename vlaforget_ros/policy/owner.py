"""A thread that owns something: it alone runs the calls handed to it, one at a time."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

from vlaforget_ros.errors import ErrorCode, PolicyError

_log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class _Call:
    run: Callable[[], Any]
    future: Future[Any] = field(default_factory=Future)


class OwnerThread:
    """Runs calls in the order they came, except for those that go first. Any thread may submit.

    Args:
        name: name of the thread, for debuggers and logs.
    """

    def __init__(self, name: str) -> None:
        self._condition = threading.Condition()
        self._calls: deque[_Call] = deque()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, run: Callable[[], T], *, first: bool = False) -> Future[T]:
        """Queue a call.

        Args:
            run: what the owner shall do; its result or exception goes into the future.
            first: overtake everything that waits.

        Raises:
            PolicyError: 205 after :meth:`close`.
        """
        call = _Call(run)
        with self._condition:
            if self._closed:
                raise not_active()
            if first:
                self._calls.appendleft(call)
            else:
                self._calls.append(call)
            self._condition.notify()
        return call.future

    def close(self, timeout_s: float = 10.0) -> None:
        """Finish the running call, refuse those that wait with 205, end the thread. May be called twice."""
        with self._condition:
            self._closed = True
            waiting, self._calls = list(self._calls), deque()
            self._condition.notify()
        for call in waiting:
            call.future.set_exception(not_active())
        if self._thread is not threading.current_thread():
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                _log.error(
                    "%s is still busy after %g s; it ends with the process", self._thread.name, timeout_s
                )

    def _run(self) -> None:
        while (call := self._next()) is not None:
            try:
                result = call.run()
            except Exception as error:
                call.future.set_exception(error)
            else:
                call.future.set_result(result)

    def _next(self) -> _Call | None:
        with self._condition:
            self._condition.wait_for(lambda: self._calls or self._closed)
            return self._calls.popleft() if self._calls else None


def not_active() -> PolicyError:
    """What is said (205) once the thread has ended."""
    return PolicyError(
        ErrorCode.POLICY_NOT_ACTIVE,
        "the inference engine is closed",
        remedy="configure and activate the policy node",
    )
