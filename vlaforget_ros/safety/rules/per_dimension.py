"""Numbers for each dimension of an action: one for all, or a list."""

from __future__ import annotations

from collections.abc import Sequence

Numbers = float | tuple[float, ...]


def spread(numbers: Numbers, size: int) -> Sequence[float] | None:
    """One number for each of ``size`` dimensions; None when a list has another length."""
    if isinstance(numbers, tuple):
        return numbers if len(numbers) == size else None
    return (numbers,) * size
