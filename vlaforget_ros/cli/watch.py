"""``vlaforget watch``: adapters, rates, swaps, faults and the canary of a running arm in the terminal."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from vlaforget_ros.cli.canary_run import PHASES
from vlaforget_ros.cli.output import console, plain_table
from vlaforget_ros.errors import ErrorCode

_POLICY = ("unconfigured", "inactive", "idle", "running", "stopped", "fault")
_SAFETY = ("nominal", "SLOWED", "STOPPED")
_PHASE = ("started", "succeeded", "failed", "aborted")
_VERDICT = ("running", "PROMOTE", "HOLD", "ABORT")
_SHOWN, _WINDOW_S, _EVERY_S = 12, 5.0, 0.25


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(watch)


def watch(
    namespace: str = typer.Option("", "--namespace", help="Namespace of the arm."),
    seconds: float = typer.Option(0.0, min=0.0, help="Leave after so long; 0: on Ctrl-C."),
) -> None:
    """Adapters, rates, swaps, faults and the canary of a running arm, live.

    Every action carries the digest of the adapter that made it: a swap is shown when actions show it. Into a pipe each
    event is a line, and the table comes at the end.
    """
    from vlaforget_ros.nodes.client import RobotClient

    end = time.monotonic() + seconds if seconds else float("inf")
    with RobotClient(namespace) as client, ExitStack() as stack:
        view = View(time.monotonic)
        for topic, callback in view.topics.items():
            client.subscribe(topic, callback)
        live = None
        if console.is_terminal:
            live = stack.enter_context(Live(console=console, auto_refresh=False))
        told, pause = 0, threading.Event()
        try:
            while time.monotonic() < end:
                if view.unnamed:
                    view.name({info.digest: info.name for info in client.list_adapters()})
                if live is not None:
                    live.update(view.shown(), refresh=True)
                else:
                    for line in view.since(told):
                        console.print(line, highlight=False, soft_wrap=True)
                        told += 1
                pause.wait(_EVERY_S)
        except KeyboardInterrupt:
            pass
        if live is None:
            console.print(view.shown(events=False))


class View:
    """What the topics of an arm said so far, as a person wants to see it. Callbacks may come from any thread.

    Args:
        clock: steady clock [s].
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._began = clock, clock()
        self._lock = threading.Lock()
        self._names: dict[str, str] = {"": "base"}
        self._events: list[str] = []
        self._actions: deque[tuple[float, float]] = deque()
        self._active: str | None = None
        self._fault = 0
        self._status: Any = None
        self._safety: Any = None
        self._canary: Any = None
        self._canary_s = 0.0
        self.topics: dict[str, Callable[[Any], None]] = {
            "policy/status": self.on_status,
            "safety/status": self.on_safety,
            "action": self.on_action,
            "rollout": self.on_rollout,
            "safety/violation": self.on_violation,
            "canary/status": self.on_canary,
        }

    @property
    def unnamed(self) -> bool:
        """Whether an adapter was seen whose name is not known yet."""
        with self._lock:
            return bool(self._seen() - self._names.keys())

    def name(self, names: Mapping[str, str]) -> None:
        """Names of adapters by digest; what the store does not know keeps its digest alone."""
        with self._lock:
            self._names |= dict.fromkeys(self._seen() - self._names.keys(), "?") | dict(names)

    def since(self, count: int) -> list[str]:
        """Events after the first ``count``, one line each."""
        with self._lock:
            return self._events[count:]

    def on_status(self, message: Any) -> None:
        """policy/status."""
        with self._lock:
            self._status = message
            self._served_by(str(message.active_digest))

    def on_safety(self, message: Any) -> None:
        """safety/status."""
        with self._lock:
            before = 0 if self._safety is None else int(self._safety.state)
            self._safety = message
            if int(message.state) != before:
                self._tell(f"safety: {_SAFETY[int(message.state)]} {message.reason}".rstrip())

    def on_action(self, message: Any) -> None:
        """action."""
        with self._lock:
            self._actions.append((self._clock(), float(message.inference_ms)))
            self._served_by(str(message.adapter_digest), f" at tick {message.step}")
            fault = int(message.fault)
            if fault != self._fault:
                self._tell(f"fault {fault} {_code(fault)}" if fault else f"fault {self._fault} is over")
                self._fault = fault

    def on_rollout(self, message: Any) -> None:
        """rollout."""
        with self._lock:
            phase = _PHASE[int(message.phase)]
            steps = "" if phase == "started" else f" after {message.steps} ticks"
            self._tell(
                f"rollout {str(message.rollout_id)[:8]} {phase}{steps}: {message.instruction!r}, "
                f"{self._called(str(message.adapter_digest))}"
            )

    def on_violation(self, message: Any) -> None:
        """safety/violation."""
        with self._lock:
            self._tell(
                f"violation {message.rule}: {message.value:.3g} {message.unit} (limit {message.limit:.3g}), "
                f"{self._called(str(message.adapter_digest))}"
            )

    def on_canary(self, message: Any) -> None:
        """canary/status."""
        with self._lock:
            before, self._canary, self._canary_s = self._canary, message, self._clock()
            if message.canary_id and (before is None or _stage(before) != _stage(message)):
                verdict = int(message.verdict)
                where = _VERDICT[verdict] if verdict else f"{PHASES[int(message.phase)]} {message.weight:.0%}"
                self._tell(
                    f"canary of {self._called(str(message.candidate_digest))}: {where}: {message.reason}"
                )

    def shown(self, events: bool = True) -> RenderableType:
        """Tables of now, and the last events.

        Args:
            events: whether they are part of it.
        """
        with self._lock:
            parts: list[RenderableType] = [plain_table(["policy", ""], self._policy_rows())]
            parts.append(plain_table(_COLUMNS, self._adapter_rows()))
            canary = self._canary_rows()
            if canary:
                parts.append(plain_table(["canary", "candidate", "stable"], canary))
                parts.append(Text(f"canary: {self._canary.reason}"))
            if events:
                parts += [Text(line) for line in self._events[-_SHOWN:]]
        return Group(*parts)

    # --- with the lock held

    def _seen(self) -> set[str]:
        found = {str(e.adapter_digest) for e in self._safety.estimates} if self._safety is not None else set()
        if self._status is not None:
            found |= {str(digest) for digest in self._status.resident}
        if self._canary is not None and self._canary.canary_id:
            found |= {str(self._canary.candidate_digest), str(self._canary.stable_digest)}
        return found | ({self._active} if self._active is not None else set())

    def _served_by(self, digest: str, when: str = "") -> None:
        if self._active is not None and digest != self._active:
            self._tell(f"swap: {self._called(self._active)} → {self._called(digest)}{when}")
        self._active = digest

    def _called(self, digest: str) -> str:
        name = self._names.get(digest, "?")
        return name if not digest else f"{digest[:12]} {name}" if name != "?" else digest[:12]

    def _tell(self, line: str) -> None:
        self._events.append(f"{self._clock() - self._began:8.1f} s  {line}")

    def _policy_rows(self) -> list[list[str]]:
        now = self._clock()
        while self._actions and self._actions[0][0] < now - _WINDOW_S:
            self._actions.popleft()
        times = [ms for _, ms in self._actions]
        latency = (
            f"p50 {np.percentile(times, 50):.1f} ms, p99 {np.percentile(times, 99):.1f} ms" if times else "—"
        )
        rows = [
            ["adapter of the last action", "—" if self._active is None else self._called(self._active)],
            ["actions, last 5 s", f"{len(times) / _WINDOW_S:.1f} Hz"],
            ["inference, last 5 s", latency],
        ]
        if self._status is not None:
            status = self._status
            rows = [
                ["model", f"{status.model} {status.base_digest[:12]}, {_POLICY[int(status.state)]}"],
                *rows,
                ["missed ticks", str(status.missed_ticks)],
                ["last fault", f"{status.last_fault} {_code(int(status.last_fault))}".strip()],
            ]
        if self._safety is not None:
            safety = self._safety
            rows.append(["safety", f"{_SAFETY[int(safety.state)]} {safety.reason}".rstrip()])
        return rows

    def _adapter_rows(self) -> list[list[str]]:
        estimates = {} if self._safety is None else {str(e.adapter_digest): e for e in self._safety.estimates}
        resident = set() if self._status is None else {str(digest) for digest in self._status.resident}
        rows = []
        for digest in sorted(self._seen() | {""}, key=lambda d: (d != self._active, d)):
            where = (
                "serves" if digest == self._active else "resident" if digest in resident or not digest else ""
            )
            known = estimates.get(digest)
            rates = ["", "", ""] if known is None else [str(known.rollouts), *_rates(known)]
            rows.append([digest[:12] or "base", self._names.get(digest, "?"), where, *rates])
        return rows

    def _canary_rows(self) -> list[list[str]]:
        """Rows of the canary that runs; none without one."""
        status = self._canary
        if status is None or not status.canary_id or int(status.verdict):
            return []
        arms = ("candidate", "stable")
        rows = [
            ["adapter", *(self._called(str(getattr(status, f"{arm}_digest"))) for arm in arms)],
            ["phase, share of rollouts", f"{PHASES[int(status.phase)]}, {status.weight:.0%}", ""],
            *(
                [count, *(str(getattr(status, f"{arm}_{count}")) for arm in arms)]
                for count in ("rollouts", "violated", "succeeded")
            ),
        ]
        for name, title in (("violation", "violates too often"), ("success", "succeeds too seldom")):
            value, limit = getattr(status, f"{name}_statistic"), getattr(status, f"{name}_threshold")
            rows.append([f"evidence: {title}", f"{value:.2f} of {limit:.2f}", ""])
        silent_s = self._clock() - self._canary_s
        if silent_s > _WINDOW_S:
            rows.append(["last heard", f"{silent_s:.0f} s ago", ""])
        return rows


_COLUMNS = ["adapter", "name", "", "rollouts", "SVR %", "TSR %"]


def _stage(status: Any) -> tuple[str, int, int]:
    """What of a canary's status is an event when it changes."""
    return str(status.canary_id), int(status.phase), int(status.verdict)


def _rates(estimate: Any) -> list[str]:
    if not estimate.rollouts:
        return ["", ""]
    return [
        f"{100 * rate:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
        for rate, low, high in (
            (estimate.svr, estimate.svr_low, estimate.svr_high),
            (estimate.tsr, estimate.tsr_low, estimate.tsr_high),
        )
    ]


def _code(number: int) -> str:
    known = {int(code): code.name for code in ErrorCode}
    return known.get(number, "") if number else ""
