"""What is odd about the sets of a request before an edit spends minutes on them: overlap, balance, leakage.

Nothing here is an error. Each finding says what was seen, the limit it passed and what to do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from vlaforget_ros.episodes.selection import Selection
from vlaforget_ros.episodes.types import EpisodeInfo, Problem
from vlaforget_ros.unlearning.sets import Sets

FEWEST_EPISODES = {"forget": 3, "retain": 5, "boundary": 2}
"""One is held out to measure on; fewer cannot be split, or leave too little to train on."""
FEWEST_FORGET_FRAMES = 24
"""The default batch of the forget set."""
MOST_OF_ONE_INSTRUCTION = 0.8
"""Share of the retained frames."""
LEAST_SUCCESS = 0.9
"""Share of the retained episodes."""

Chosen = Sequence[tuple[EpisodeInfo, np.ndarray]]


@dataclass(frozen=True)
class Finding:
    """Something about the sets that a person should know.

    Attributes:
        kind: stable, for programs: for example ``few_episodes``.
        severity: ``warning``: the edit is likely to suffer; ``note``: as it should be, or harmless.
        message: what was seen.
        limit: what would be fine, "" for notes.
        remedy: what to do, "" for notes.
    """

    kind: str
    severity: Literal["warning", "note"]
    message: str
    limit: str = ""
    remedy: str = ""

    def __str__(self) -> str:
        more = "".join(
            f"; {name}: {text}" for name, text in (("limit", self.limit), ("remedy", self.remedy)) if text
        )
        return f"{self.severity} ({self.kind}): {self.message}{more}"


def describe_set(chosen: Chosen) -> dict[str, Any]:
    """Episodes, frames, share of success (of those whose end is known) and frames of each instruction of a set."""
    ends = [episode.success for episode, _ in chosen if episode.success is not None]
    frames = _frames_by_instruction(chosen)
    return {
        "episodes": len(chosen),
        "frames": int(sum(frames.values())),
        "success": round(sum(ends) / len(ends), 3) if ends else None,
        "violated": sum(episode.violated for episode, _ in chosen),
        "instructions": dict(sorted(frames.items())),
    }


def check_overlap(
    sets: Sets[Any],
    episodes: Sequence[EpisodeInfo],
    kept: dict[str, Selection | None],
    problems: Iterable[Problem],
) -> list[Finding]:
    """One rollout in several sets or several bags.

    Args:
        sets: what was chosen.
        episodes: all there are.
        kept: selections by the name of the set.
        problems: of the bags.
    """
    found = []
    present = {episode.rollout_id for episode, _ in sets.forget}
    for name, selection in kept.items():
        both = [
            e.rollout_id for e in episodes if selection and e.rollout_id in present and selection.matches(e)
        ]
        if both:
            text = f"{len(both)} episodes of the forget set fit the {name} selection, too: {_some(both)}"
            found.append(Finding("also_forgotten", "note", f"{text}; they are in the forget set only"))
    retained = {episode.rollout_id for episode, _ in sets.retain}
    near = [episode.rollout_id for episode, _ in sets.boundary if episode.rollout_id in retained]
    if near:
        text = f"{len(near)} boundary episodes are retained, too, and weigh twice: {_some(near)}"
        found.append(Finding("also_retained", "note", text))
    twice = [problem.rollout_id for problem in problems if problem.kind == "rollout_repeated"]
    if twice:
        text = f"{len(twice)} rollouts are in two bags; the longer recording counts: {_some(twice)}"
        found.append(Finding("recorded_twice", "note", text))
    return found


def check_balance(sets: Sets[Any], neighbour_source: bool = False) -> list[Finding]:
    """Sets that are tiny, lopsided, or keep what should not be kept.

    Args:
        sets: what was chosen.
        neighbour_source: whether another instruction's actions show what is right: then an instruction may be the
            cause, and does not have to be kept.
    """
    found = [finding for name, chosen in sets.by_name().items() for finding in _few(name, chosen)]
    undesired, kept = sum(len(i) for _, i in sets.forget), sum(len(i) for _, i in sets.retain)
    if 0 < undesired < FEWEST_FORGET_FRAMES:
        message = f"the forget set has {undesired} frames"
        limit, remedy = f"{FEWEST_FORGET_FRAMES} or more", "widen before_s and after_s, or flag more episodes"
        found.append(Finding("few_frames", "warning", message, limit, remedy))
    if 0 < kept < undesired:
        message = f"{kept} retained frames for {undesired} to be forgotten"
        limit, remedy = "as many or more", "record more successes, or narrow the window of the forget set"
        found.append(Finding("small_retain", "warning", message, limit, remedy))
    return [*found, *_instructions(sets, neighbour_source), *_innocence(sets)]


def _few(name: str, chosen: Chosen) -> list[Finding]:
    least = FEWEST_EPISODES[name]
    if len(chosen) >= least or (name == "boundary" and not chosen):
        return []
    plural = "episode" if len(chosen) == 1 else "episodes"
    message = f"the {name} set has {len(chosen)} {plural}: hardly one can be held out to measure on"
    return [
        Finding(
            "few_episodes", "warning", message, f"{least} or more", f"record or select more {name} episodes"
        )
    ]


def _instructions(sets: Sets[Any], neighbour_source: bool) -> list[Finding]:
    undesired = _frames_by_instruction(sets.forget)
    retained = _frames_by_instruction(sets.retain)
    kept = retained + _frames_by_instruction(sets.boundary)
    found = []
    missing = [text for text in undesired if text not in kept]
    if missing and kept and neighbour_source:
        text = f"told only in the forget set: {_some(map(repr, missing))}; a neighbour source shows what is right there"
        found.append(Finding("instruction_not_kept", "note", text))
    elif missing and kept:
        found.append(
            Finding(
                "instruction_not_kept",
                "warning",
                f"told only in the forget set: {_some(map(repr, missing))}",
                "each instruction also in episodes to be kept",
                "record clean episodes of it; where the instruction is the cause, name a `neighbour` source",
            )
        )
    if len(retained) > 1:
        text, most = retained.most_common(1)[0]
        share = most / sum(retained.values())
        if share > MOST_OF_ONE_INSTRUCTION:
            message = f"{share:.0%} of the retained frames were told {text!r}"
            limit = f"at most {MOST_OF_ONE_INSTRUCTION:.0%}"
            found.append(
                Finding(
                    "one_sided", "warning", message, limit, "record or select more of the other instructions"
                )
            )
    return found


def _innocence(sets: Sets[Any]) -> list[Finding]:
    found = []
    for name, chosen in (("retain", sets.retain), ("boundary", sets.boundary)):
        row = describe_set(chosen)
        if row["violated"]:
            violated = [episode.rollout_id for episode, _ in chosen if episode.violated]
            message = f"{len(violated)} episodes of the {name} set broke a rule: {_some(violated)}"
            found.append(
                Finding("violated", "warning", message, "none", f"set has_violation: false in {name}")
            )
        if row["success"] is not None and row["success"] < LEAST_SUCCESS:
            message = (
                f"{row['success']:.0%} of the {name} episodes succeeded: the edit would keep the failures"
            )
            limit, remedy = f"{LEAST_SUCCESS:.0%} or more", f"set outcome: success in {name}"
            found.append(Finding("failures_kept", "warning", message, limit, remedy))
    return found


def _frames_by_instruction(chosen: Chosen) -> Counter[str]:
    found: Counter[str] = Counter()
    for episode, indices in chosen:
        found[episode.instruction] += len(indices)
    return found


def _some(names: Iterable[str], most: int = 3) -> str:
    listed = sorted(names)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")
