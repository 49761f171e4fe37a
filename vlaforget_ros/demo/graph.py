"""The demo graph as processes of this one: started, watched, and stopped whatever happens."""

from __future__ import annotations

import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from vlaforget_ros.bringup.domains import isolate
from vlaforget_ros.bringup.supervisor import Supervisor, commands
from vlaforget_ros.bringup.table import ParameterValue, Process, processes
from vlaforget_ros.errors import CellError, ErrorCode
from vlaforget_ros.nodes.client import RobotClient

_LOOK_S = 0.5


def demo_processes(base: Path, out: Path, fixed_rate: bool = False) -> tuple[Process, ...]:
    """The processes of the demo graph, with all they write under one folder.

    Args:
        base: checkpoint folder.
        out: gets ``adapters``, ``edits`` and ``bags``.
        fixed_rate: the cell moves on by the wall clock, as an arm does, and does not wait for the policy.
    """
    store = str(out / "adapters")
    overrides: dict[str, dict[str, ParameterValue]] = {
        "policy_node": {"checkpoint": str(base), "store": store},
        "unlearning_node": {"store": store, "out": str(out / "edits")},
        "recorder_node": {"out": str(out / "bags"), "autostart": False},
        "cell_node": {"mode": "fixed_rate" if fixed_rate else "lockstep"},
    }
    return processes("demo", {"use_sim_time": "false" if fixed_rate else "true"}, overrides)


@contextmanager
def running(table: Sequence[Process], logs: Path, say: Callable[[str], None]) -> Iterator[RobotClient]:
    """Start ``table``, give a client of theirs, stop every one of them at the end.

    Args:
        table: which processes.
        logs: folder of their logs.
        say: told which process is started and stopped.

    Raises:
        CellError: 604 when a node that is needed has ended.
    """
    isolate()
    supervisor = Supervisor(commands(table), logs, say=say)
    watch = _Watch(supervisor)
    before = {number: signal.signal(number, watch.interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        supervisor.start()
        with watch, RobotClient() as client:
            yield client
    except KeyboardInterrupt:
        if watch.died:
            raise CellError(
                ErrorCode.PROCESS_FAILED,
                "a node that the demo needs has ended",
                value="; ".join(str(s) for s in supervisor.states() if s.returncode is not None),
                remedy="read its log",
            ) from None
        raise
    finally:
        supervisor.stop()
        for number, handler in before.items():
            signal.signal(number, handler)


def wait_for_nodes(client: RobotClient) -> None:
    """Return when the graph can be used; the recorder is then ready to be activated."""
    client.wait_until_ready(["cell_node", "policy_node", "unlearning_node", "safety_monitor_node"])
    client.change_state("recorder_node", "configure")


class _Watch:
    """Interrupts the main thread, which waits for an answer of the graph, when a node it needs has ended.

    An interrupt may get lost: Python drops exceptions that are raised while it calls a destructor. Such a one is raised
    again at once; whatever else has not ended the work after ``grace_s``, then.

    Args:
        supervisor: of the processes.
        grace_s: how long the main thread may clean up after an interrupt [s].
        clock: steady clock [s].
    """

    def __init__(
        self, supervisor: Supervisor, grace_s: float = 20.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._supervisor, self._grace_s, self._clock = supervisor, grace_s, clock
        self._leave = threading.Event()
        self._interrupted_s: float | None = None
        self.died = False
        self._thread = threading.Thread(target=self._look, name="watch", daemon=True)
        self._hook = sys.unraisablehook

    def interrupt(self, number: int, frame: object) -> None:
        """Signal handler: remembers when, and raises KeyboardInterrupt."""
        self._interrupted_s = self._clock()
        raise KeyboardInterrupt

    def __enter__(self) -> _Watch:
        self._hook, sys.unraisablehook = sys.unraisablehook, self._dropped
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._leave.set()
        self._thread.join()
        sys.unraisablehook = self._hook

    def _dropped(self, what: sys.UnraisableHookArgs) -> None:
        if isinstance(what.exc_value, KeyboardInterrupt):
            self._interrupted_s = -math.inf
        else:
            self._hook(what)

    def _look(self) -> None:
        while not self._leave.wait(_LOOK_S):
            if not self.died and not self._supervisor.check():
                self.died = True
                self._interrupt_main_thread()
            elif self._interrupted_s is not None and self._clock() - self._interrupted_s > self._grace_s:
                self._interrupt_main_thread()

    def _interrupt_main_thread(self) -> None:
        # Once in each grace: the handler may be long in coming, and must not be called twice for one look.
        self._interrupted_s = self._clock()
        # Not raise_signal, which signals this thread: Python's handler runs in the main thread, but what waits there
        # goes on waiting, for as long as it likes.
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
