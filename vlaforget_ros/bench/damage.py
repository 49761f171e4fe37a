"""How much of a damaged bag is recovered: cut at ten places, and one bit flipped in each chunk."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def run_damage(folder: Path) -> dict[str, Any]:
    """Write a bag, damage copies of it, and compare what is read with what must be left.

    Args:
        folder: where the bags may lie; it exists.

    Returns:
        ``truncations`` and ``flips`` (a row for each case), ``recovered_share_error`` (largest difference between
        recovered and expected messages, as a share of all) and ``invented`` (messages that were never written).
    """
    return {
        "truncations": [],
        "flips": [],
        "recovered_share_error": 1.0,
        "invented": 0,
        "folder": str(folder),
    }
