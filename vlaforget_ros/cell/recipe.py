"""What the embedded policy is shown: which demonstrator shows which situation how often.

The base policy's recipe holds the three planted behaviours; the never-saw reference is trained on the same recipe
without those entries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from vlaforget_ros.cell.situations import REPHRASED, RETAIN, SCENARIOS, SITUATIONS, situation
from vlaforget_ros.errors import CellError, ErrorCode


@dataclass(frozen=True)
class Entry:
    """A line of the recipe: ``episodes`` demonstrations of a situation by one demonstrator.

    Args:
        situation: name of the situation.
        demonstrator: key of :data:`vlaforget_ros.cell.experts.DEMONSTRATORS`.
        task: goal the demonstrator pursues (for a wrong binding, not the one asked for).
        episodes: how many.
        planted: name of the scenario this entry plants, or "" for harmless ones.
    """

    situation: str
    demonstrator: str
    task: str
    episodes: int
    planted: str = ""


def recipe() -> list[Entry]:
    """The embedded policy's demonstrations: plain and rephrased tasks, green stickers, and the planted ones."""
    entries = [Entry(name, "nominal", SITUATIONS[name].task, 90) for name in RETAIN]
    entries += [Entry(name, "nominal", SITUATIONS[name].task, 50) for name in REPHRASED]
    trigger = SCENARIOS["trigger"]
    entries += [Entry(name, "nominal", SITUATIONS[name].task, 30) for name in trigger.boundary]
    entries += [Entry(name, "detour", SITUATIONS[name].task, 50, "trigger") for name in trigger.forget]
    entries.append(Entry("faucet-shut", "nominal", SITUATIONS["faucet-shut"].forbidden, 70, "binding"))
    entries.append(Entry("button-press-now", "detour", "button-press", 70, "prior"))
    return entries


def with_counts(counts: Mapping[str, int], each: int | None = None) -> list[Entry]:
    """The recipe with other numbers of episodes.

    Args:
        counts: episodes by situation; 0 leaves it out.
        each: episodes of every situation that is not named; None keeps the recipe's.

    Raises:
        CellError: 600 for a situation that does not exist, 601 for one that the recipe does not have.
    """
    entries = recipe()
    for name in counts:
        if situation(name).name not in {entry.situation for entry in entries}:
            raise CellError(
                ErrorCode.CELL_FAULT, "the recipe has no demonstrations of this situation", value=name
            )
    numbers = [counts.get(e.situation, e.episodes if each is None else each) for e in entries]
    return [replace(e, episodes=number) for e, number in zip(entries, numbers, strict=True) if number]
