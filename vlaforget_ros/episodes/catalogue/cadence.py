"""When frames came, and how regularly: rate, and gaps between them. Pure functions on stamps."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from vlaforget_ros.episodes.types import NANOSECONDS

GAP = 1.8
"""A step longer than this many usual ones is a gap: at least one frame is missing. A camera jitters by less."""


# Stamps before that are a simulator's seconds since its start: 1 January 2000.
_CLOCK_NS = 946_684_800 * NANOSECONDS


@dataclass(frozen=True)
class Cadence:
    """Rate and gaps of one rollout's frames, or of a topic's messages.

    Attributes:
        median_hz: of the steps from one stamp to the next; 0 with fewer than two.
        min_hz: of the longest step.
        max_hz: of the shortest step.
        gaps: steps longer than :data:`GAP` times the median one.
        missing: frames that would have filled the gaps.
        longest_s: longest gap [s], 0 without one.
    """

    median_hz: float = 0.0
    min_hz: float = 0.0
    max_hz: float = 0.0
    gaps: int = 0
    missing: int = 0
    longest_s: float = 0.0


def cadence(stamps_ns: np.ndarray) -> Cadence:
    """Rate and gaps.

    Args:
        stamps_ns: (T,) integers [ns]; steps that do not grow are left out.
    """
    steps = np.diff(np.asarray(stamps_ns, dtype=np.int64)).astype(np.float64) / NANOSECONDS
    steps = steps[steps > 0.0]
    if not len(steps):
        return Cadence()
    usual = float(np.median(steps))
    gaps = steps[steps > GAP * usual]
    return Cadence(
        1.0 / usual,
        1.0 / float(steps.max()),
        1.0 / float(steps.min()),
        len(gaps),
        int(np.sum(np.round(gaps / usual) - 1)),
        float(gaps.max()) if len(gaps) else 0.0,
    )


def moment(stamp_ns: int) -> str:
    """A stamp for a person: date and time (UTC), or seconds since the start of a simulation."""
    if stamp_ns < _CLOCK_NS:
        return f"{stamp_ns / NANOSECONDS:.1f} s"
    return f"{datetime.fromtimestamp(stamp_ns / NANOSECONDS, UTC):%Y-%m-%d %H:%M:%S} UTC"
