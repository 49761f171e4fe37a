"""Which arm drives the n-th rollout: balanced, seeded, and known to everybody who knows seed, number and weight."""

from __future__ import annotations

import hashlib
from fractions import Fraction

_FINEST = 100
_SHORTEST = 10


def block_of(weight: float) -> tuple[int, int]:
    """Length of a block, and how many of it the candidate drives; exact for weights of whole percents.

    Args:
        weight: the candidate's share, 0..1. Others than whole percents are taken as the nearest fraction whose
            denominator is at most 100.

    Raises:
        ValueError: for a weight outside 0..1.
    """
    if not 0.0 <= weight <= 1.0:
        raise ValueError(f"weight {weight} must be within 0..1")
    share = Fraction(weight).limit_denominator(_FINEST)
    # Two rollouts in a block would let anybody guess the second; longer ones hide it.
    times = -(-_SHORTEST // share.denominator)
    return times * share.denominator, times * share.numerator


def arm_of(seed: int, index: int, weight: float) -> bool:
    """Whether the candidate drives a rollout.

    Each block of rollouts has exactly the candidate's share of them, at places that the seed decides (permuted blocks,
    as in clinical trials). The same arguments give the same answer on every machine and version.

    Args:
        seed: of the canary.
        index: number of the rollout, from 0.
        weight: the candidate's share, 0..1.

    Raises:
        ValueError: for a negative index or a weight outside 0..1.
    """
    if index < 0:
        raise ValueError(f"index {index} must not be negative")
    length, ours = block_of(weight)
    block, place = divmod(index, length)
    order = sorted(range(length), key=lambda at: _draw(seed, block, length, at))
    return order.index(place) < ours


def _draw(seed: int, block: int, length: int, place: int) -> bytes:
    return hashlib.sha256(f"{seed}/{block}/{length}/{place}".encode()).digest()
