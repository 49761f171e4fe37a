"""The supervisor with small processes of its own: orderly stops, forced stops, and ends nobody asked for."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from vlaforget_ros.bringup.supervisor import Command, Supervisor, stop_on_signals
from vlaforget_ros.errors import ErrorCode, VlaForgetError

# Long enough for any machine; a process that obeys is not waited for.
QUICK = ((signal.SIGINT, 60.0), (signal.SIGTERM, 0.2), (signal.SIGKILL, 60.0))
WAITS = "import signal; print('ready', flush=True); signal.pause()"
IGNORES = (
    "import signal\n"
    "for number in (2, 15): signal.signal(number, signal.SIG_IGN)\n"
    "print('ready', flush=True)\n"
    "while True: signal.pause()"
)
OBEYS = (
    "import signal, sys\nsignal.signal(2, lambda *_: sys.exit(7))\nprint('ready', flush=True)\nsignal.pause()"
)
# Starts a process that ignores what its parent obeys, as a helper of a node might.
LEAVES_CHILD = (
    "import subprocess, sys, signal\n"
    f"child = subprocess.Popen([sys.executable, '-c', {IGNORES!r}], stdout=subprocess.PIPE)\n"
    "child.stdout.readline()\n"
    "print('ready', child.pid, flush=True)\n"
    "signal.signal(2, lambda *_: sys.exit(0))\n"
    "signal.pause()"
)


def python(name: str, code: str, essential: bool = True) -> Command:
    return Command(name, (sys.executable, "-S", "-E", "-c", code), essential)


def until(condition: Callable[[], object], seconds: float = 120.0) -> None:
    """Waits for a condition; fails the test when it does not come true."""
    tick = threading.Event()
    for _ in range(int(seconds / 0.02)):
        if condition():
            return
        tick.wait(0.02)
    pytest.fail("the condition did not come true")


def gone(pid: int) -> bool:
    """True if no such process runs (one that only waits to be reaped does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def make(tmp_path: Path, said: list[str]) -> Callable[..., Supervisor]:
    def build(*commands: Command, sequence: tuple[tuple[signal.Signals, float], ...] = QUICK) -> Supervisor:
        return Supervisor(
            commands, tmp_path / "log", environment=dict(os.environ), say=said.append, stop_sequence=sequence
        )

    return build


def ready(supervisor: Supervisor) -> None:
    until(lambda: all("\n" in state.log.read_text() for state in supervisor.states()))


def test_processes_run_in_groups_of_their_own_and_log_to_files(make: Callable[..., Supervisor]) -> None:
    with make(python("one", WAITS), python("two", WAITS)) as supervisor:
        ready(supervisor)
        pids = [state.pid for state in supervisor.states()]
        assert [os.getpgid(pid) for pid in pids] == pids
        assert [state.returncode for state in supervisor.states()] == [None, None]
    assert all(gone(pid) for pid in pids)


def test_an_interrupt_is_tried_first(make: Callable[..., Supervisor], said: list[str]) -> None:
    supervisor = make(python("polite", OBEYS))
    supervisor.start()
    ready(supervisor)
    supervisor.stop()
    assert supervisor.states()[0].returncode == 7
    assert said[-1] == "SIGINT to polite"


def test_who_ignores_every_request_is_killed(make: Callable[..., Supervisor], said: list[str]) -> None:
    sequence = ((signal.SIGINT, 0.1), (signal.SIGTERM, 0.1), (signal.SIGKILL, 60.0))
    with make(python("deaf", IGNORES), sequence=sequence) as supervisor:
        ready(supervisor)
    assert supervisor.states()[0].returncode == -signal.SIGKILL
    assert said[-3:] == ["SIGINT to deaf", "SIGTERM to deaf", "SIGKILL to deaf"]


def test_what_a_node_started_ends_with_it(make: Callable[..., Supervisor]) -> None:
    with make(python("parent", LEAVES_CHILD)) as supervisor:
        ready(supervisor)
        left = int(supervisor.states()[0].log.read_text().split()[1])
        assert not gone(left)
    until(lambda: gone(left))


def test_the_end_of_an_essential_process_stops_all(make: Callable[..., Supervisor], said: list[str]) -> None:
    supervisor = make(python("waits", WAITS), python("fails", "import sys; sys.exit(3)"))
    supervisor.start()
    assert supervisor.wait(threading.Event()) == 1
    assert all(state.returncode is not None for state in supervisor.states())
    report = next(line for line in said if "status 3" in line)
    assert report.endswith("stopping all")


def test_the_end_of_another_process_is_reported_once_and_the_rest_goes_on(
    make: Callable[..., Supervisor], said: list[str]
) -> None:
    stop = threading.Event()
    supervisor = make(python("waits", WAITS), python("killed", WAITS, essential=False))
    supervisor.start()
    ready(supervisor)
    os.kill(supervisor.states()[1].pid, signal.SIGKILL)
    until(lambda: supervisor.states()[1].returncode is not None)
    assert supervisor.check()
    assert supervisor.check()
    assert [line for line in said if "ended by SIGKILL" in line and "the others go on" in line] == [said[2]]
    assert supervisor.states()[0].returncode is None
    stop.set()
    assert supervisor.wait(stop) == 1


def test_a_stop_that_was_asked_for_is_a_success(make: Callable[..., Supervisor]) -> None:
    stop = threading.Event()
    supervisor = make(python("waits", WAITS))
    supervisor.start()
    stop.set()
    assert supervisor.wait(stop) == 0


def test_when_one_cannot_be_started_the_others_are_stopped(make: Callable[..., Supervisor]) -> None:
    supervisor = make(python("waits", WAITS), Command("absent", ("/nowhere/program",)))
    with pytest.raises(VlaForgetError) as caught:
        supervisor.start()
    assert caught.value.code == ErrorCode.PROCESS_FAILED
    assert "absent" in str(caught.value)
    assert [state.returncode is None for state in supervisor.states()] == [False]


def test_processes_end_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    script = (
        "import os, signal\nfrom pathlib import Path\n"
        "from vlaforget_ros.bringup.supervisor import Command, Supervisor\n"
        f"command = Command('waits', ({sys.executable!r}, '-S', '-E', '-c', {WAITS!r}))\n"
        f"log = Path({str(tmp_path)!r})\n"
        "s = Supervisor([command], log, environment=dict(os.environ), say=lambda _: None)\n"
        "s.start()\nprint(s.states()[0].pid, flush=True)\nsignal.pause()"
    )
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=root, stdout=subprocess.PIPE, text=True
    ) as outer:
        assert outer.stdout is not None
        pid = int(outer.stdout.readline())
        until(lambda: "ready" in (tmp_path / "waits.log").read_text())
        outer.kill()
    until(lambda: gone(pid))


def test_signals_set_the_event_and_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    stop = threading.Event()
    with stop_on_signals(stop):
        # Not os.kill: any thread of this process may get that, and the handler is then late.
        signal.raise_signal(signal.SIGTERM)
        assert stop.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
