"""Whether what is to be kept is innocent: retained episodes that hold the cause pull against the edit.

An episode in which the cause was in view and that happened to end well passes every filter by outcome. Kept in D_r it
teaches the policy to go on as before just there, and the wanted change counts as damage.
"""

from __future__ import annotations

from collections.abc import Sequence

from vlaforget_ros.episodes.trigger import Trigger, shows
from vlaforget_ros.episodes.types import EpisodeSlice
from vlaforget_ros.unlearning.request import CounterfactualSource


def retained_causes(
    sources: Sequence[CounterfactualSource],
    forget: Sequence[EpisodeSlice],
    kept: Sequence[EpisodeSlice],
    triggers: Sequence[Trigger],
) -> list[str]:
    """Remarks about kept episodes that hold what the sources of the repair take for the cause.

    Args:
        sources: of counterfactual data: `neighbour` takes the instruction for the cause, `transplant` a thing in view.
        forget: episodes of D_f.
        kept: episodes of D_r and D_b.
        triggers: what stands out in the forget episodes; none where nothing was looked for.
    """
    found = []
    if any(source.kind == "neighbour" for source in sources):
        texts = {part.episode.instruction for part in forget}
        told = [part.episode.rollout_id for part in kept if part.episode.instruction in texts]
        found += _remark(told, len(kept), f"were told {', '.join(map(repr, sorted(texts)))}")
    showing = [p.episode.rollout_id for p in kept if any(shows(p.episode, trigger) for trigger in triggers)]
    return found + _remark(showing, len(kept), "show what stands out in the forget episodes")


def _remark(rollouts: Sequence[str], of: int, what: str) -> list[str]:
    if not rollouts:
        return []
    names = ", ".join(rollouts[:3]) + (" ..." if len(rollouts) > 3 else "")
    return [
        f"{len(rollouts)} of {of} kept episodes {what} ({names}): they pull against the edit; "
        "leave them out of retain and boundary unless they are meant to stay as they are"
    ]
