"""The one exception hierarchy: every error a user can meet has a number, and most have a remedy.

The bands are those of the ROS interfaces (``int32 error_code`` in services, actions and PolicyAction.fault):
1xx adapters, 2xx policy, 3xx unlearning, 4xx safety, 5xx canary. 0 means no error.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from enum import IntEnum
from typing import Any


class ErrorCode(IntEnum):
    """Numeric codes as they appear in messages, services and manifests."""

    NONE = 0

    ADAPTER_UNKNOWN = 100
    ADAPTER_BASE_MISMATCH = 101
    ADAPTER_BAD_SIGNATURE = 102
    ADAPTER_BAD_DIGEST = 103
    ADAPTER_BAD_SHAPE = 104
    ADAPTER_NON_FINITE = 105
    ADAPTER_OVER_RANK_LIMIT = 106
    ADAPTER_DISK = 107
    ADAPTER_NOT_PROMOTABLE = 108
    ADAPTER_NO_PREVIOUS = 109
    ADAPTER_SUPERSEDED = 110
    ADAPTER_BAD_BUNDLE = 111
    ADAPTER_UNTRUSTED = 112
    ADAPTER_EXPIRED = 113
    ADAPTER_REVOKED = 114
    ADAPTER_PROBE_FAILED = 115

    POLICY_STALE_IMAGE = 200
    POLICY_NON_FINITE_ACTION = 201
    POLICY_NOT_AN_ACTION_TOKEN = 202
    POLICY_OVER_LIMIT = 203
    POLICY_OUT_OF_MEMORY = 204
    POLICY_NOT_ACTIVE = 205
    POLICY_UNKNOWN_INSTRUCTION = 206
    POLICY_BAD_CHECKPOINT = 207
    POLICY_BAD_PARAMETER = 208
    POLICY_BAD_IMAGE = 209
    POLICY_MODEL_FAILED = 210
    POLICY_TRAINING = 211
    POLICY_NOT_SHARED = 212

    UNLEARNING_BAD_REQUEST = 300
    UNLEARNING_BAG_UNREADABLE = 301
    UNLEARNING_EMPTY_FORGET_SET = 302
    UNLEARNING_EMPTY_RETAIN_SET = 303
    UNLEARNING_GATE_FAILED = 304
    UNLEARNING_CANCELLED = 305
    UNLEARNING_OUT_OF_MEMORY = 306
    UNLEARNING_DIVERGED = 307
    UNLEARNING_KILLED = 308
    UNLEARNING_BUSY = 309
    UNLEARNING_BAG_UNWRITABLE = 310

    SAFETY_STOPPED = 400
    SAFETY_STALE_INPUT = 401
    SAFETY_UNKNOWN_RULE = 402
    SAFETY_BAD_RULE = 403
    SAFETY_BAD_STATE = 404

    CANARY_REFUSED = 500
    CANARY_BAD_PROTOCOL = 501
    CANARY_NOT_AWAITED = 502
    CANARY_BAD_RECORD = 503

    CELL_UNKNOWN_SITUATION = 600
    CELL_FAULT = 601
    ROS_MISSING = 602
    PROCESS_FAILED = 603
    FILES_MISSING = 604
    BRINGUP_BAD_ARGUMENT = 605
    ROS_NO_ANSWER = 606


class VlaForgetError(Exception):
    """An error with a code, the offending value, the limit it broke and what to do about it.

    Args:
        code: numeric code, see :class:`ErrorCode`.
        message: what happened, in one clause.
        value: the offending value, if there is one.
        limit: what would have been accepted.
        remedy: what the person reading this should do next.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        value: Any = None,
        limit: Any = None,
        remedy: str = "",
    ) -> None:
        self.code = code
        self.message = message
        self.value = value
        self.limit = limit
        self.remedy = remedy
        super().__init__(self.__str__())

    def __str__(self) -> str:
        parts = [f"[{int(self.code)} {self.code.name}] {self.message}"]
        if self.value is not None:
            parts.append(f"value: {self.value}")
        if self.limit is not None:
            parts.append(f"limit: {self.limit}")
        if self.remedy:
            parts.append(f"remedy: {self.remedy}")
        return "; ".join(parts)


class AdapterError(VlaForgetError):
    """Codes 1xx: an adapter was refused; the one that was active stays active."""


class PolicyError(VlaForgetError):
    """Codes 2xx: the policy could not produce a motion; the arm holds."""


class UnlearningError(VlaForgetError):
    """Codes 3xx: an edit could not start or finish; finished stages stay on disk."""


class SafetyError(VlaForgetError):
    """Codes 4xx: a rule or its input is unusable, or the arm is stopped."""


class CanaryError(VlaForgetError):
    """Codes 5xx: a canary cannot start, go on or be read; stable stays."""


class CellError(VlaForgetError):
    """Codes 6xx: the robot cell (simulated or real) or its environment is unusable."""


def did_you_mean(value: str, choices: Iterable[str]) -> str:
    """Remedy text for an unknown name: the nearest known ones, or all of them.

    Args:
        value: what was given.
        choices: the names that exist.
    """
    known = sorted(choices)
    near = difflib.get_close_matches(value, known, n=3, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"known: {', '.join(known) or 'none'}"
