"""Moments that a person writes down: ISO 8601 with a time zone, or seconds of ROS time."""

from __future__ import annotations

import datetime
from typing import Any

from vlaforget_ros.episodes.types import NANOSECONDS


def parse_moment(value: Any) -> float | str:
    """A moment as it is kept in a request.

    Args:
        value: seconds of ROS time (a number, or text of one), ISO 8601 text with a time zone, or what YAML makes of
            such text.

    Returns:
        seconds as a number, anything else as ISO 8601 text.

    Raises:
        ValueError: neither of them, or without a time zone: the same text would mean another moment elsewhere.
    """
    if isinstance(value, bool):
        raise ValueError(f"{value!r} is no moment: {_FORMS}")
    if isinstance(value, int | float):
        return _seconds(float(value))
    if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        raise ValueError(f"{value.isoformat()} is a day, not a moment: {_FORMS}")
    if isinstance(value, str):
        try:
            seconds = float(value)
        except ValueError:
            value = _iso(value)
        else:
            return _seconds(seconds)
    if not isinstance(value, datetime.datetime):
        raise ValueError(f"{value!r} is no moment: {_FORMS}")
    if value.tzinfo is None:
        raise ValueError(f"{value.isoformat()} has no time zone: {_FORMS}")
    return value.isoformat()


def moment_ns(moment: float | str) -> int:
    """Nanoseconds of ROS time of what :func:`parse_moment` returned; wall time counts from 1970, UTC."""
    if isinstance(moment, str):
        since = datetime.datetime.fromisoformat(moment) - _EPOCH
        return (since.days * 86_400 + since.seconds) * NANOSECONDS + since.microseconds * 1000
    return round(moment * NANOSECONDS)


def moment_text(stamp_ns: int) -> str:
    """A stamp as ISO 8601 in UTC where it looks like wall time (after 2001), as seconds otherwise (simulated time)."""
    if stamp_ns < _WALL_NS:
        return f"{stamp_ns / NANOSECONDS:.3f}"
    moment = _EPOCH + datetime.timedelta(microseconds=stamp_ns // 1000)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


_FORMS = "write 2026-11-20T14:05:00Z, 2026-11-20T14:05:00+01:00, or seconds of ROS time"
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_WALL_NS = 1_000_000_000 * NANOSECONDS


def _seconds(value: float) -> float:
    if not abs(value) < 2**53:
        raise ValueError(f"{value!r} s is no moment: {_FORMS}")
    return value


def _iso(text: str) -> datetime.datetime:
    try:
        return datetime.datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise ValueError(f"{text!r} is no moment: {_FORMS}") from error
