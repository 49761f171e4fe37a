"""A running canary as a value for JSON, and back after a restart of the process that ran it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vlaforget_ros.errors import CanaryError, ErrorCode
from vlaforget_ros.safety.canary.machine import Canary
from vlaforget_ros.safety.canary.session import CanarySession
from vlaforget_ros.safety.shadow import ShadowBook


class _Kept(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    form: Literal[1] = 1
    canary_id: str = Field(min_length=1)
    written_s: float
    canary: dict[str, Any]
    session: dict[str, Any]


def kept(canary_id: str, session: CanarySession) -> dict[str, Any]:
    """The canary, its rollouts and the time of day."""
    made = _Kept(
        canary_id=canary_id,
        written_s=time.time(),
        canary=session.canary.to_dict(),
        session=session.to_dict(),
    )
    return made.model_dump(mode="json")


def read_kept(
    value: Any, shadows: ShadowBook, clock: Callable[[], float]
) -> tuple[str, CanarySession, float]:
    """Canary id, session, and for how long nobody watched [s].

    The time of day tells how long: a steady clock does not outlive the machine. One that was set back counts as away
    for as long, since nobody knows then.

    Args:
        value: of :func:`kept`.
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
