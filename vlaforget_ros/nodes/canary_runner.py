"""One canary from the request to its consequences: who is asked, what is done about the verdict. Without ROS messages.

The machine (``safety.canary``) decides; this module acts. It belongs to the safety monitor node's one thread: nothing
here waits.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from vlaforget_ros.adapters.evidence import failed_gates
from vlaforget_ros.adapters.manifest import Manifest
from vlaforget_ros.adapters.store import AdapterStore
from vlaforget_ros.errors import CanaryError, ErrorCode, VlaForgetError
from vlaforget_ros.safety.canary.document import document
from vlaforget_ros.safety.canary.kept import CanaryText, read_kept
from vlaforget_ros.safety.canary.machine import Canary
from vlaforget_ros.safety.canary.protocol import read_protocol
from vlaforget_ros.safety.canary.session import CanarySession
from vlaforget_ros.safety.canary.state import ArmCounts, CanaryState, Verdict
from vlaforget_ros.safety.shadow import Position, ShadowBook

_KIND = "canary"


class Robot(Protocol):
    """What the runner needs of the robot around it. ``then`` is called with a text, "" where all went well."""

    def cap_speed(self, scale: float, reason: str) -> None:
        """Let the arm move at most this fast, 0..1; 1: no limit."""

    def stop(self, reason: str) -> None:
        """Stop the arm until an operator releases it."""

    def reachable(self) -> bool:
        """Whether the policy can be asked for something, or has been waited for in vain."""

    def counts(self, digest: str) -> ArmCounts:
        """What the rates know of an adapter."""

    def foresee(self, position: Position) -> tuple[str, ...]:
        """Rules that an end effector there would break."""

    def roll_back(self, reason: str, only_from: str, then: Callable[[str], None]) -> None:
        """Take an adapter away from the policy while it serves."""

    def swap(self, digest: str, then: Callable[[str], None]) -> None:
        """Make an adapter the policy's active one."""

    def tell(self, canary_id: str, canary: Canary) -> None:
        """Say to everybody where the canary stands."""

    def log(self, text: str) -> None:
        """One line for a person."""


@dataclass(frozen=True)
class Finished:
    """How a canary ended, for whoever asked for it.

    Args:
        state: at the end.
        folder: where its report belongs.
        document: what the report is made of.
        reason: of the verdict, and what could not be done about it.
        carried_out: what follows from the verdict was done.
    """

    state: CanaryState
    folder: Path
    document: dict[str, Any]
    reason: str
    carried_out: bool


class CanaryRunner:
    """One canary at a time.

    Args:
        robot: the robot around it.
        store: holds the candidate; gets the verdict. None: no canary can be run.
        folder: reports go into folders of it, one a canary.
        displacement: the policy's actions are displacements.
    """

    def __init__(
        self,
        robot: Robot,
        store: AdapterStore | None,
        folder: Path,
        displacement: bool,
    ) -> None:
        self._robot, self._store, self._folder = robot, store, folder
        self._displacement = displacement
        self.session: CanarySession | None = None
        self._id = ""
        self._finished: Callable[[Finished], None] = lambda _: None
        self._ending = False
        self._alone = False
        self._text: tuple[CanarySession, CanaryText] | None = None

    def start(
        self, candidate: str, protocol: str, stable: str | None, finished: Callable[[Finished], None]
    ) -> str:
        """Begin; returns the canary's id.

        Args:
            candidate: alias, name, digest or unique prefix.
            protocol: path of a protocol file, "" for the default one.
            stable: digest of the adapter that serves, None where no policy was heard.
            finished: called once, at the end.

        Raises:
            VlaForgetError: 500 another one runs, there is no store or no policy, or both adapters are the same; 501
                the protocol; 100-107 the adapter.
        """
        if self.session is not None:
            raise _refused("another canary is running", self._id, "wait for its verdict, or cancel it")
        if self._store is None:
            raise _refused("the safety monitor has no adapter store", "store: ''", "set the parameter store")
        if stable is None:
            raise _refused("no policy was heard", "policy/status", "start and activate the policy node")
        read = read_protocol(Path(protocol) if protocol else None)
        digest = self._store.resolve(candidate)
        if not digest:
            raise _refused("the base model cannot be a candidate", candidate, "name an adapter")
        manifest = self._store.manifest(digest)
        canary = Canary(read, digest, stable, time.monotonic, self._robot.counts(stable))
        self.session, self._finished = CanarySession(canary, self._shadows(), time.monotonic), finished
        self._ending = self._alone = False
        self._id = f"{time.strftime('%Y%m%dT%H%M%S')}-{uuid.uuid4().hex[:8]}"
        self._robot.log(f"canary {self._id}: {digest[:12]} against {stable[:12] or 'the base model'}")
        self._record("canary_started")
        findings = _failed_gates(manifest)
        canary.offline(not findings, findings)
        self.act()
        return self._id

    def kept(self) -> str | None:
        """The canary that runs, or whose verdict is being carried out, as JSON; None without one."""
        if self.session is None:
            return None
        if self._text is None or self._text[0] is not self.session:
            self._text = self.session, CanaryText(self._id, self.session)
        return self._text[1].make()

    def resume(self, value: Any, finished: Callable[[Finished], None]) -> None:
        """Go on with a canary that a restart interrupted; a verdict that was not yet carried out is.

        Args:
            value: of :meth:`kept`, read.
            finished: called once, at the end, unless somebody joins it.

        Raises:
            VlaForgetError: 503 the value, 500 there is no store; 100-107 its candidate.
        """
        if self._store is None:
            raise _refused("the safety monitor has no adapter store", "store: ''", "set the parameter store")
        canary_id, session, away_s = read_kept(value, self._shadows(), time.monotonic)
        candidate = session.canary.adapters[0]
        self._store.manifest(candidate)
        self._id, self.session, self._finished = canary_id, session, finished
        self._ending, self._alone = False, True
        self._robot.log(f"canary {canary_id} of {candidate[:12]} goes on after {away_s:.0f} s")
        self._record("canary_resumed")
        self.act()

    def join(self, candidate: str, protocol: str, finished: Callable[[Finished], None]) -> bool:
        """Wait for the canary that goes on after a restart, where it is the one that is asked for.

        Args:
            candidate: as in :meth:`start`.
            protocol: as in :meth:`start`.
            finished: called once, at the end.

        Returns:
            False where it is another one, or somebody waits for it already.

        Raises:
            VlaForgetError: as :meth:`start`.
        """
        if self.session is None or self._store is None or not self._alone:
            return False
        canary = self.session.canary
        same_protocol = read_protocol(Path(protocol) if protocol else None) == canary.protocol
        if not same_protocol or self._store.resolve(candidate) != canary.adapters[0]:
            return False
        self._finished, self._alone = finished, False
        return True

    def suspend(self) -> None:
        """Let go of the canary without a verdict: :meth:`kept` was written, and a later process resumes it."""
        if self.session is not None:
            self._robot.log(f"canary {self._id} is kept for the next start")
            self.session = None

    def cancel(self, reason: str) -> None:
        """End it with HOLD; stable goes on."""
        if self.session is not None:
            self.session.canary.cancel(reason)
            self.act()

    def approve(self, operator: str) -> str:
        """An operator agrees to the promotion that waits. Raises CanaryError 502 where none does."""
        if self.session is None:
            raise CanaryError(ErrorCode.CANARY_NOT_AWAITED, "no canary is running", remedy="start one")
        reason = self.session.canary.approve(operator).reason
        self.act()
        return reason

    def tick(self) -> None:
        """Look at the clock, and keep everybody's knowledge fresh."""
        if self.session is not None:
            self.session.canary.tick()
            self.act()

    def act(self) -> None:
        """After something was heard: tell where it stands, and after the verdict do what follows from it, once."""
        session = self.session
        if session is None or self._ending:
            return
        state = session.canary.state
        scale = session.speed_scale
        self._robot.cap_speed(scale, "canary: the candidate at reduced speed" if scale < 1.0 else "")
        self._robot.tell(self._id, session.canary)
        if state.verdict is Verdict.RUNNING:
            return
        if not self._robot.reachable():
            # Just restarted. A candidate that was found unfit must not move meanwhile.
            if session.candidate_drives:
                self._robot.cap_speed(0.0, f"canary: {state.reason}")
            return
        self._ending = True
        self._robot.log(f"canary {self._id}: {state.verdict.name}: {state.reason}")
        if state.stop:
            self._robot.stop(f"canary: {state.reason}")
        candidate = session.canary.adapters[0]
        if state.verdict is Verdict.PROMOTE:
            self._promote(candidate)
        elif session.candidate_drives:
            self._robot.roll_back(f"canary {state.verdict.name}: {state.reason}", candidate, self._taken_back)
        else:
            self._finish("")

    def _shadows(self) -> ShadowBook:
        return ShadowBook(self._robot.foresee, self._displacement)

    def _taken_back(self, trouble: str) -> None:
        if trouble:
            # It still drives, and was found unfit to.
            self._robot.stop(f"canary: the candidate could not be taken off the arm: {trouble}")
        self._finish(trouble)

    def _promote(self, candidate: str) -> None:
        try:
            if self._store is not None:
                # First what this canary found: an earlier one may have marked the adapter.
                self._attach(self._store)
                self._store.alias("stable", candidate)
        except VlaForgetError as error:
            self._finish(f"it could not become stable: {error}")
            return
        self._robot.swap(candidate, self._finish)

    def _finish(self, trouble: str) -> None:
        session = self.session
        if session is None:
            return
        state = session.canary.state
        if trouble:
            self._robot.log(f"canary {self._id}: {trouble}")
        self._record("canary_ended")
        self.session = None
        reason = "; ".join(text for text in (state.reason, trouble) if text)
        made = self._document(session.canary)
        self._finished(Finished(state, self._folder / self._id, made, reason, not trouble))

    def _document(self, canary: Canary) -> dict[str, Any]:
        created = datetime.now(UTC).isoformat(timespec="seconds")
        candidate, stable = (self._name(digest) for digest in canary.adapters)
        return document(canary, created=created, canary_id=self._id, names=(candidate, stable))

    def _name(self, digest: str) -> str:
        if not digest or self._store is None:
            return "" if digest else "base"
        try:
            return self._store.manifest(digest).core.name
        except VlaForgetError:
            return ""

    def _record(self, event: str) -> None:
        """Into the store's history, and beside an aborted candidate, which then cannot become stable."""
        session, store = self.session, self._store
        if session is None or store is None:
            return
        (candidate, stable), state = session.canary.adapters, session.canary.state
        told = {"canary": self._id, "verdict": state.verdict.name, "reason": state.reason}
        try:
            store.record(event, candidate, stable=stable, **told)
            if state.verdict is Verdict.ABORT:
                self._attach(store)
        except VlaForgetError as error:
            # What the arm does must not depend on the disk.
            self._robot.log(f"canary {self._id}: not in the history: {error}")

    def _attach(self, store: AdapterStore) -> None:
        """Evidence beside the adapter. HOLD is none: what an earlier canary found stays."""
        if self.session is None:
            return
        canary = self.session.canary
        passed = canary.state.verdict is Verdict.PROMOTE
        gate = {"name": _KIND, "verdict": "passed" if passed else "failed"}
        told = {"canary": self._id, "verdict": canary.state.verdict.name, "reason": canary.state.reason}
        store.attach(canary.adapters[0], _KIND, {**told, "gates": [gate]})


def _failed_gates(manifest: Manifest) -> str:
    """Gates that the adapter failed before, "" for none. An earlier canary is no gate: it may be repeated."""
    found = [] if manifest.core.gates_passed else ["gates of its edit"]
    found += [f"{kind}: {gate.name}" for kind, gate in failed_gates(manifest.evidence) if kind != _KIND]
    return f"failed: {', '.join(found)}" if found else ""


def _refused(message: str, value: Any, remedy: str) -> CanaryError:
    return CanaryError(ErrorCode.CANARY_REFUSED, message, value=value, remedy=remedy)
