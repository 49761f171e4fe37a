"""A running canary as a value for JSON, and back after a restart of the process that ran it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from vlaforget_ros.errors import CanaryError, ErrorCode
from vlaforget_ros.safety.canary.machine import Canary
from vlaforget_ros.safety.canary.memory import Entry
from vlaforget_ros.safety.canary.session import CanarySession
from vlaforget_ros.safety.canary.state import TracePoint
from vlaforget_ros.safety.shadow import ShadowBook

_POINT = TypeAdapter(TracePoint)


class _Kept(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    form: Literal[1] = 1
    canary_id: str = Field(min_length=1)
    written_s: float
    canary: dict[str, Any]
    session: dict[str, Any]


class CanaryText:
    """The text of one canary, made after each event of it: what was made before is not made again.

    A trace of a few hundred rollouts is some hundred kilobytes, and the thread that makes them also judges the arm.

    Args:
        canary_id: names the run.
        session: the canary and its rollouts.
    """

    def __init__(self, canary_id: str, session: CanarySession) -> None:
        self._id, self._session = canary_id, session
        self._trace: list[str] = []
        self._entries: dict[str, tuple[Entry, str]] = {}

    def make(self) -> str:
        """The canary, its rollouts and the time of day as JSON."""
        memory = self._session.canary.memory
        for point in memory.trace[len(self._trace) :]:
            self._trace.append(json.dumps(_POINT.dump_python(point, mode="json")))
        for name, entry in memory.entries.items():
            if name not in self._entries or self._entries[name][0] is not entry:
                self._entries[name] = (entry, f"{json.dumps(name)}: {entry.model_dump_json()}")
        small = json.dumps(memory.model_dump(mode="json", exclude={"trace", "entries"}))
        entries = ", ".join(text for _, text in self._entries.values())
        canary = f'{small[:-1]}, "trace": [{", ".join(self._trace)}], "entries": {{{entries}}}}}'
        head = json.dumps({"form": 1, "canary_id": self._id, "written_s": time.time()})
        return f'{head[:-1]}, "canary": {canary}, "session": {self._session.to_json()}}}'


def read_kept(
    value: Any, shadows: ShadowBook, clock: Callable[[], float]
) -> tuple[str, CanarySession, float]:
    """Canary id, session, and for how long nobody watched [s].

    The time of day tells how long: a steady clock does not outlive the machine. One that was set back counts as away
    for as long, since nobody knows then.

    Args:
        value: of :meth:`CanaryText.make`, read.
        shadows: empty; what was half done is lost.
        clock: steady clock [s].

    Raises:
        CanaryError: 503 for a value that is none, 501 for its protocol.
    """
    try:
        read = _Kept.model_validate(value)
        session = CanarySession(Canary.from_dict(read.canary, clock), shadows, clock)
        session.resume(read.session)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "it"
        raise CanaryError(
            ErrorCode.CANARY_BAD_RECORD,
            f"not a canary: {where}: {first['msg']}",
            remedy="start the canary again",
        ) from error
    away_s = abs(time.time() - read.written_s)
    session.canary.returned(away_s)
    return read.canary_id, session, away_s
