"""Starts the processes of a table and stops all of them: `vlaforget up`, where ros2 launch is not installed.

Every process leads a process group of its own, writes to a log file of its own, and is told to end by the
kernel should this process be killed. Nothing is restarted silently: an essential process that ends stops
the graph, another one is reported.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from vlaforget_ros.bringup.command import command_line, install_prefix, ros_environment
from vlaforget_ros.bringup.middleware import image_profiles
from vlaforget_ros.bringup.table import Process
from vlaforget_ros.errors import ErrorCode, VlaForgetError

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_POLL_S = 0.1
# Signals of an orderly stop and how long each is waited for [s]: nodes deactivate on the first, a bag is
# closed in that time.
STOP_SEQUENCE = ((signal.SIGINT, 8.0), (signal.SIGTERM, 4.0), (signal.SIGKILL, 4.0))


@dataclass(frozen=True)
class Command:
    """What the supervisor starts.

    Args:
        name: unique in the graph; names the log file.
        line: program and arguments.
        essential: see :class:`vlaforget_ros.bringup.table.Process`.
    """

    name: str
    line: tuple[str, ...]
    essential: bool = True


@dataclass(frozen=True)
class State:
    """One process now.

    Args:
        name: of the command.
        pid: process id, also the id of its process group.
        returncode: None while it runs; negative = ended by that signal.
        log: file with all it printed.
    """

    name: str
    pid: int
    returncode: int | None
    log: Path

    def __str__(self) -> str:
        if self.returncode is None:
            return f"{self.name}: running, pid {self.pid}, log {self.log}"
        if self.returncode < 0:
            return f"{self.name}: ended by {signal.Signals(-self.returncode).name}, log {self.log}"
        return f"{self.name}: ended with status {self.returncode}, log {self.log}"


def commands(table: Sequence[Process], environment: Mapping[str, str] = os.environ) -> tuple[Command, ...]:
    """The commands of a process table.

    Raises:
        VlaForgetError: 602, ROS 2 or the build is missing.
    """
    prefix = install_prefix(environment)
    return tuple(Command(row.executable, tuple(command_line(row, prefix)), row.essential) for row in table)


class Supervisor:
    """Owns the processes from :meth:`start` to :meth:`stop`. For one thread, which has to outlive them.

    Args:
        commands: what to start, in that order.
        log_directory: gets ``<name>.log`` for each; made if missing.
        environment: of the processes; default: :func:`ros_environment` of this process.
        say: told one line for each thing that happens.
        stop_sequence: pairs (signal, seconds to wait for it).
    """

    def __init__(
        self,
        commands: Sequence[Command],
        log_directory: Path,
        *,
        environment: Mapping[str, str] | None = None,
        say: Callable[[str], None] = print,
        stop_sequence: Sequence[tuple[signal.Signals, float]] = STOP_SEQUENCE,
    ) -> None:
        self._commands = tuple(commands)
        self._log_directory = log_directory
        self._environment = dict(ros_environment(os.environ) if environment is None else environment)
        self._say = say
        self._stop_sequence = tuple(stop_sequence)
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._reported: set[str] = set()

    def __enter__(self) -> Supervisor:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Starts all of them; when one cannot be started, those already started are stopped.

        Raises:
            VlaForgetError: 603, one could not be started.
        """
        self._log_directory.mkdir(parents=True, exist_ok=True)
        try:
            for command in self._commands:
                self._children[command.name] = self._spawn(command)
                self._say(str(self._state(command.name)))
        except OSError as error:
            self.stop()
            raise VlaForgetError(
                ErrorCode.PROCESS_FAILED,
                f"{command.name} could not be started: {error}",
                value=command.line[0],
            ) from error
        except BaseException:
            self.stop()
            raise

    def states(self) -> tuple[State, ...]:
        """What each process does now."""
        return tuple(self._state(name) for name in self._children)

    def check(self) -> bool:
        """Reports processes that have ended by themselves; False when the graph should be stopped."""
        go_on = True
        for command in self._commands:
            state = self._state(command.name)
            if state.returncode is None:
                continue
            if command.name not in self._reported:
                self._reported.add(command.name)
                then = "stopping all" if command.essential else "the others go on"
                self._say(f"{state}; {then}")
            go_on = go_on and not command.essential
        return go_on

    def wait(self, stop: threading.Event) -> int:
        """Watches until ``stop`` is set or an essential process ends, then stops all.

        Returns:
            0, or 1 when a process had ended by itself: the exit status of `vlaforget up`.
        """
        while not stop.is_set() and self.check():
            stop.wait(_POLL_S)
        self.check()
        self.stop()
        return 1 if self._reported else 0

    def stop(self) -> None:
        """Ends all processes and what they started: interrupt, request, then force. Safe to call again."""
        running = [name for name, child in self._children.items() if child.poll() is None]
        for number, seconds in self._stop_sequence:
            if not running:
                break
            self._say(f"{number.name} to {', '.join(running)}")
            for name in running:
                _signal_group(self._children[name].pid, number)
            running = self._wait_for(running, seconds)
        for child in self._children.values():
            _signal_group(child.pid, signal.SIGKILL)  # what a node started and left behind
        if running:
            self._say(f"still there after SIGKILL: {', '.join(running)}")

    def _wait_for(self, names: Sequence[str], seconds: float) -> list[str]:
        """Those of ``names`` that still run after at most ``seconds``."""
        deadline = time.monotonic() + seconds
        running = list(names)
        for name in names:
            try:
                self._children[name].wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                continue
            running.remove(name)
        return running

    def _spawn(self, command: Command) -> subprocess.Popen[bytes]:
        # The child writes to the file itself: nothing is lost, and it does not block, should this process
        # be slow or gone.
        with (self._log_directory / f"{command.name}.log").open("wb") as log:
            return subprocess.Popen(
                command.line,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**self._environment, "PYTHONUNBUFFERED": "1"},
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )

    def _state(self, name: str) -> State:
        child = self._children[name]
        return State(name, child.pid, child.poll(), self._log_directory / f"{name}.log")


@contextmanager
def stop_on_signals(stop: threading.Event) -> Iterator[None]:
    """While inside, SIGINT and SIGTERM set ``stop``, a second one raises KeyboardInterrupt. Main thread."""

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def up(
    table: Sequence[Process],
    log_directory: Path,
    *,
    environment: Mapping[str, str] = os.environ,
    say: Callable[[str], None] = print,
) -> int:
    """Runs a graph until Ctrl-C or until an essential process ends: the body of `vlaforget up`.

    Returns:
        Exit status: 0, or 1 when a process ended by itself.

    Raises:
        VlaForgetError: 602, ROS 2 or the build is missing; 603, a process could not be started.
    """
    stop = threading.Event()
    completed = ros_environment(environment) | image_profiles(environment)
    supervisor = Supervisor(commands(table, environment), log_directory, environment=completed, say=say)
    with stop_on_signals(stop):
        supervisor.start()
        try:
            return supervisor.wait(stop)
        finally:
            supervisor.stop()


def _end_with_parent() -> None:
    """Runs in the child before its program: the kernel ends it when the supervisor's thread ends."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)


def _signal_group(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return  # nobody is left in it
