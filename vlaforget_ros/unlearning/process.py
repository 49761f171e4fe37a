"""An edit in its child process: started, listened to, cancelled. What it loses, nobody else loses. No ROS."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vlaforget_ros.errors import ErrorCode, UnlearningError

CHILD = "vlaforget_ros.unlearning.child"
"""The module that carries an edit out."""

_LOG_TAIL = 5
_KILL_AFTER_S = 20.0


class Progress(BaseModel):
    """A progress line of the child."""

    model_config = ConfigDict(frozen=True)

    stage: str = ""
    round: int = Field(default=0, ge=0)
    step: int = Field(default=0, ge=0)
    total_steps: int = Field(default=0, ge=0)
    losses: dict[str, float] = Field(default_factory=dict)
    eta_s: float = -1.0
    peak_mb: float = 0.0
    doing: str = ""


class Weights(BaseModel):
    """The line of a child whose base weights are not mapped from their files: whose they are, and why."""

    model_config = ConfigDict(frozen=True)

    shared: bool
    lender: int = 0
    message: str = ""


class Done(BaseModel):
    """The last line of a child that succeeded: where the adapter is and what the store shall know of it."""

    model_config = ConfigDict(frozen=True)

    directory: Path
    metrics: dict[str, float] = Field(default_factory=dict)
    report: str = ""
    remarks: list[str] = Field(default_factory=list)
    provenance: dict[str, Any] = Field(default_factory=dict)


class _Failed(BaseModel):
    code: int
    message: str = ""


@dataclass
class _Ending:
    done: Done | None = None
    failed: _Failed | None = None


def edit_command(
    module: str,
    request: Path,
    out: Path,
    store: Path,
    resume: bool,
    share: float = 1.0,
    own_weights: bool = False,
) -> list[str]:
    """The command line of an edit: the module under the guard that makes it yield and die with its parent.

    Args:
        module: that carries it out.
        request: its file.
        out: folder of the edit.
        store: adapter store.
        resume: whether to go on from finished stages.
        share: of the time that it may work.
        own_weights: load base weights also where a policy lends its own.
    """
    command = [sys.executable, "-m", "vlaforget_ros.unlearning.child_guard", str(os.getpid()), module]
    command += ["--request", str(request), "--out", str(out), "--store", str(store)]
    command += ["--share", f"{share:g}"] if share < 1.0 else []
    command += ["--own-weights"] if own_weights else []
    return [*command, "--resume"] if resume else command


class EditProcess:
    """One running edit. ``events`` belongs to one thread; ``cancel`` may be called from any.

    Args:
        command: what to run; it prints JSON objects a line on its standard output.
        log: file that gets everything else it prints.
        told: gets what the child says about its base weights, for a person.

    Raises:
        UnlearningError: 308 when it cannot be started.
    """

    def __init__(
        self, command: Sequence[str], log: Path, told: Callable[[str], object] = lambda _: None
    ) -> None:
        self._log, self._told = log, told
        self.weights: Weights | None = None
        self._cancelled = False
        self._killer: threading.Timer | None = None
        self._lines: IO[str] = log.open("a", encoding="utf-8")
        # A resumed edit appends: what an earlier run said last is no reason of this one's end.
        self._begin = log.stat().st_size
        try:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=self._lines,
                text=True,
                errors="replace",
                # Its own group: a Ctrl-C meant for the node reaches the edit through the node, as a cancel.
                start_new_session=True,
            )
        except OSError as error:
            self._lines.close()
            raise UnlearningError(
                ErrorCode.UNLEARNING_KILLED, f"the edit cannot be started: {error}", value=command[0]
            ) from error

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return self._process.pid

    def cancel(self) -> None:
        """Ask it to end after the present step; it is killed when it does not."""
        if self._cancelled:
            return
        self._cancelled = True
        self._signal(signal.SIGTERM)
        self._killer = threading.Timer(_KILL_AFTER_S, self._signal, (signal.SIGKILL,))
        self._killer.daemon = True
        self._killer.start()

    def events(self) -> Iterator[Progress | Done]:
        """Progress as it comes, then ``Done``.

        Raises:
            UnlearningError: with the child's own code; 305 after a cancel; 308 when it was killed or died.
        """
        ending = _Ending()
        try:
            for line in self._process.stdout or ():
                progress = self._take(line, ending)
                if progress is not None:
                    yield progress
            status = self._process.wait()
        finally:
            self._clean_up()
        if ending.done is None or status != 0:
            raise self._failure(status, ending)
        yield ending.done

    def _take(self, line: str, ending: _Ending) -> Progress | None:
        """Sort one line; what is no event goes to the log."""
        try:
            event = json.loads(line)
            kind = event.get("event") if isinstance(event, dict) else None
            if kind == "progress":
                return Progress.model_validate(event)
            if kind == "weights":
                self.weights = Weights.model_validate(event)
                self._told(self.weights.message)
                return None
            if kind == "done":
                ending.done = Done.model_validate(event)
                return None
            if kind == "error":
                ending.failed = _Failed.model_validate(event)
                return None
        except (ValueError, ValidationError):
            # Not ours: a library printed something. It is kept in the log.
            kind = None
        self._lines.write(line)
        self._lines.flush()
        return None

    def _failure(self, status: int, ending: _Ending) -> UnlearningError:
        if ending.failed is not None:
            known = {int(code) for code in ErrorCode}
            code = (
                ErrorCode(ending.failed.code) if ending.failed.code in known else ErrorCode.UNLEARNING_KILLED
            )
            text = ending.failed.message
            return UnlearningError(
                code, text.split("] ", 1)[1] if text.startswith("[") and "] " in text else text
            )
        if self._cancelled:
            return UnlearningError(
                ErrorCode.UNLEARNING_CANCELLED,
                "the edit was cancelled",
                remedy="finished stages are kept: run it again with resume",
            )
        how = (
            f"killed by signal {signal.Signals(-status).name}"
            if status < 0
            else f"ended with status {status}"
        )
        return UnlearningError(
            ErrorCode.UNLEARNING_KILLED,
            f"the edit's process was lost: {how}",
            value="; ".join(_last_lines(self._log, self._begin)) or None,
            remedy=f"read {self._log}; policy and store are as before; run it again with resume",
        )

    def _signal(self, number: int) -> None:
        if self._process.poll() is None:
            try:
                os.killpg(self._process.pid, number)
            except ProcessLookupError:
                # It ended between the two calls.
                return

    def _clean_up(self) -> None:
        if self._killer is not None:
            self._killer.cancel()
        self._signal(signal.SIGKILL)
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._lines.close()


def _last_lines(log: Path, begin: int) -> list[str]:
    text = log.read_bytes()[begin:].decode("utf-8", errors="replace")
    lines = [line.strip() for line in text.splitlines()]
    return [line for line in lines if line][-_LOG_TAIL:]
