"""Film strips of the same episodes before and after an edit, for reports."""

from __future__ import annotations

from collections.abc import Sequence

from vlaforget_ros.cell.metaworld_cell import MetaWorldCell
from vlaforget_ros.cell.rollouts import RolloutResult
from vlaforget_ros.demo.pictures import replay
from vlaforget_ros.report.pictures import Strip


def strips_of(
    before: Sequence[RolloutResult], after: Sequence[RolloutResult], situations: Sequence[str]
) -> list[Strip]:
    """One strip for each situation: its first episode, carried out again from the recorded actions.

    Args:
        before: episodes of the base.
        after: the same episodes with the edited policy.
        situations: which; those without an episode are left out.
    """
    pairs: dict[str, tuple[RolloutResult, RolloutResult]] = {}
    for one, other in zip(before, after, strict=True):
        pairs.setdefault(one.situation, (one, other))
    cell = MetaWorldCell()
    try:
        return [
            Strip(
                f"{situation}, seed {pairs[situation][0].seed}",
                *(replay(cell, situation, told.seed, told.actions).strip for told in pairs[situation]),
            )
            for situation in situations
            if situation in pairs
        ]
    finally:
        cell.close()
