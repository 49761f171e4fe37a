"""One comparison with another implementation, and how to measure it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class Difference:
    """One comparison.

    Args:
        case: number of the case.
        what: is compared.
        value: the difference.
        limit: the largest that counts as equal.
    """

    case: int
    what: str
    value: float
    limit: float

    @property
    def agrees(self) -> bool:
        """Whether the difference stays within the limit (a NaN does not)."""
        return self.value <= self.limit


def largest(one: Tensor, other: Tensor) -> float:
    """Largest absolute difference; infinite where shapes differ."""
    return float((one.float() - other.float()).abs().max()) if one.shape == other.shape else float("inf")


def features_limit(reference: Tensor) -> float:
    """Largest difference of features that counts as equal: 1e-5, or a millionth of the largest feature if that is more.

    Features of random weights reach 60, where single precision has steps of 4e-6: processors that add in another order
    differ by several of them.
    """
    return max(1e-5, 1e-6 * float(reference.abs().max()))


def repeated(answers: np.ndarray) -> int:
    """How many of (B, ...) answers another one has given before."""
    return len(answers) - len(np.unique(answers, axis=0))
