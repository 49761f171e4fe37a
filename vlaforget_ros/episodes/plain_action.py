"""The common case of a PolicyAction, told from its bytes: a message object takes four times as long.

Whatever is unusual is left to rosbags.
"""

from __future__ import annotations

import struct
import sys
from typing import NamedTuple

import numpy as np

_STAMP, _LENGTH, _TAIL = struct.Struct("<iI"), struct.Struct("<I"), struct.Struct("<ffi")
_FLOATS = np.dtype("<f4")
FIELDS = (
    "header",
    "observation_stamp",
    "rollout_id",
    "step",
    "action",
    "adapter_digest",
    "base_digest",
    "speed_scale",
    "inference_ms",
    "fault",
)
"""The definition that is read here."""


class PlainAction(NamedTuple):
    """What matching needs of a PolicyAction; ``action`` (A,) float32 of its own."""

    rollout_id: str
    observation_ns: int
    action: np.ndarray
    adapter_digest: str
    fault: int


class _Alike(NamedTuple):
    """Where things are in a message, and the bytes that the next one of the same rollout has as well."""

    size: int
    stamp_at: int
    step_at: int
    action_at: int
    length: int
    texts_at: int
    tail_at: int
    fixed: tuple[bytes, bytes, bytes, bytes, bytes]
    rollout: str
    adapter: str


class PlainActions:
    """Tells the messages of one topic. They are alike as a rule: then their texts are read once."""

    def __init__(self) -> None:
        self._alike: _Alike | None = None

    def read(self, data: bytes | memoryview) -> PlainAction | None:
        """As :func:`plain_action`."""
        alike = self._alike
        if alike is None or len(data) != alike.size or _fixed(data, *alike[1:7]) != alike.fixed:
            self._alike = alike = _layout(data)
        return None if alike is None else _told(data, alike)


def plain_action(data: bytes | memoryview) -> PlainAction | None:
    """A PolicyAction in little-endian CDR; None for anything else, and for bytes that do not fit."""
    alike = _layout(data)
    return None if alike is None else _told(data, alike)


def _told(data: bytes | memoryview, alike: _Alike) -> PlainAction:
    seconds, nanoseconds = _STAMP.unpack_from(data, alike.stamp_at)
    _, _, fault = _TAIL.unpack_from(data, alike.tail_at)
    # A copy: it must not keep the message.
    values = np.frombuffer(data, _FLOATS, alike.length, alike.action_at) if alike.length else ()
    action = np.array(values, np.float32)
    stamp = seconds * 1_000_000_000 + nanoseconds
    return PlainAction(alike.rollout, stamp, action, alike.adapter, fault)


def _layout(data: bytes | memoryview) -> _Alike | None:
    if bytes(data[:2]) != b"\0\1":
        return None
    try:
        stamp_at = _after_text(data, 12)
        rollout, step_at = _text(data, stamp_at + 8)
        (count,) = _LENGTH.unpack_from(data, step_at + 4)
        action_at = step_at + 8
        texts_at = action_at + 4 * count
        adapter, at = _text(data, texts_at)
        tail_at = _after_text(data, at)
        _TAIL.unpack_from(data, tail_at)
    except (struct.error, ValueError, IndexError):
        return None
    if not 0 <= len(data) - tail_at - _TAIL.size <= 3:
        return None
    places = (stamp_at, step_at, action_at, count, texts_at, tail_at)
    # One text for all actions of a rollout.
    texts = (sys.intern(rollout), sys.intern(adapter))
    return _Alike(len(data), *places, _fixed(data, *places), *texts)


def _fixed(
    data: bytes | memoryview, stamp_at: int, step_at: int, action_at: int, _: int, texts_at: int, tail_at: int
) -> tuple[bytes, bytes, bytes, bytes, bytes]:
    """All but stamps, step, action and what follows the texts."""
    return (
        bytes(data[:4]),
        bytes(data[12:stamp_at]),
        bytes(data[stamp_at + 8 : step_at]),
        bytes(data[step_at + 4 : action_at]),
        bytes(data[texts_at:tail_at]),
    )


def _text(data: bytes | memoryview, at: int) -> tuple[str, int]:
    """A text, and where the next field begins, aligned to four bytes as all that follow are."""
    (length,) = _LENGTH.unpack_from(data, at)
    end = at + 4 + length
    if length < 1 or data[end - 1]:
        raise ValueError("no text")
    return bytes(data[at + 4 : end - 1]).decode(), -(-end // 4) * 4


def _after_text(data: bytes | memoryview, at: int) -> int:
    """Behind a text that nobody needs; it is decoded all the same, since what is no text makes the message broken."""
    return _text(data, at)[1]
