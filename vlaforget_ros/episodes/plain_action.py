"""The common case of a PolicyAction, told from its bytes: a message object takes four times as long.

Whatever is unusual is left to rosbags.
"""

from __future__ import annotations

import struct
import sys
from typing import NamedTuple

import numpy as np

_STAMP, _LENGTH, _TAIL = struct.Struct("<iI"), struct.Struct("<I"), struct.Struct("<ffi")
_HEAD = 16  # bytes up to the text of frame_id: encapsulation, stamp, length of the text
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


def plain_action(data: bytes | memoryview) -> PlainAction | None:
    """A PolicyAction in little-endian CDR; None for anything else, and for bytes that do not fit."""
    if bytes(data[:2]) != b"\0\1":
        return None
    try:
        at = _after_text(data, 12)
        seconds, nanoseconds = _STAMP.unpack_from(data, at)
        rollout, behind = _text(data, at + 8)
        at = behind + 4
        (count,) = _LENGTH.unpack_from(data, at)
        action = np.frombuffer(data, "<f4", count, at + 4) if count else np.zeros(0, np.float32)
        adapter, at = _text(data, at + 4 + 4 * count)
        at = _after_text(data, at)
        _, _, fault = _TAIL.unpack_from(data, at)
    except (struct.error, ValueError, IndexError):
        return None
    if not 0 <= len(data) - at - _TAIL.size <= 3:
        return None
    stamp = int(seconds) * 1_000_000_000 + int(nanoseconds)
    # A copy, and one text for all actions of a rollout: neither keeps the message.
    return PlainAction(sys.intern(rollout), stamp, np.array(action, np.float32), sys.intern(adapter), fault)


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
