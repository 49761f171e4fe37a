"""What a valid request may still get wrong: conditions that exclude each other, and names that nothing has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vlaforget_ros.episodes.objects import names_object, words_of
from vlaforget_ros.episodes.selection import Selection, select
from vlaforget_ros.episodes.types import EpisodeInfo, EpisodeSlice
from vlaforget_ros.errors import ErrorCode, PolicyError, UnlearningError, did_you_mean

if TYPE_CHECKING:
    from vlaforget_ros.unlearning.request import Request

_PATTERN = frozenset("*?[")


def require_consistent(request: Request) -> None:
    """What can be seen without the bags.

    Raises:
        UnlearningError: 300 for a rollout that is named as undesired and as to be kept, for a selection of violations
            in episodes without any, for gates that exclude each other.
    """
    for name, kept in _kept(request).items():
        both = [text for text in _in_both(request.forget, kept) if not _is_pattern(text)]
        if both:
            raise _both(name, both)
    for name, selection in {"forget": request.forget, **_kept(request)}.items():
        asks = selection.violation_rules or selection.windowed or selection.flagged
        if selection.has_violation is False and asks:
            raise _bad(
                f"{name}: asks for violations in episodes without any",
                str(selection.model_dump(mode="json", exclude_defaults=True)),
                f"has_violation: false, or {', '.join(('violation_rules', 'flagged', 'before_s', 'after_s'))}",
                f"leave out has_violation, or what needs violations, in {name}",
            )
    if request.gates.fc_low_min > request.gates.fc_min:
        raise _bad(
            "gates: a lower bound cannot be asked to be above what it bounds",
            f"fc_low_min {request.gates.fc_low_min:g}, fc_min {request.gates.fc_min:g}",
            "fc_low_min <= fc_min",
            "raise fc_min, or lower fc_low_min",
        )


def require_separate(request: Request, forget: Sequence[EpisodeSlice]) -> None:
    """Rollouts of the forget set that another selection asks for by the same words.

    That D_r and D_b otherwise leave out what is in D_f goes without saying: a selection such as ``outcome: success``
    says what to keep in general. The same rollout ids or pattern in both say two things of the same rollouts.

    Args:
        request: the request.
        forget: what was selected by its forget selection.

    Raises:
        UnlearningError: 300 naming the rollouts.
    """
    for name, kept in _kept(request).items():
        shared = _in_both(request.forget, kept)
        if shared:
            asked = kept.model_copy(update={"rollout_ids": shared, "max_frames": None})
            both = [part.episode.rollout_id for part in select([part.episode for part in forget], asked)]
            if both:
                raise _both(name, both)


def require_known(request: Request, episodes: Sequence[EpisodeInfo]) -> None:
    """Every rule, instruction and object that a selection names occurs in the bags.

    A misspelt one beside a right one would silently leave out a part of the set, and in the boundary selection all of
    it. Patterns may match nothing; bags without any violation at all say nothing about the names of rules.

    Raises:
        UnlearningError: 300 with the nearest names that do occur.
    """
    rules = {violation.rule for episode in episodes for violation in episode.violations}
    instructions = {episode.instruction for episode in episodes}
    for name, selection in {"forget": request.forget, **_kept(request)}.items():
        for field, texts, known in (
            ("violation_rules", selection.violation_rules, rules),
            ("instructions", selection.instructions, instructions),
        ):
            unknown = [text for text in texts if text not in known and not _is_pattern(text)]
            if unknown and known:
                raise _bad(
                    f"{name}.{field}: no episode of the bags has it",
                    unknown[0],
                    ", ".join(sorted(known)),
                    did_you_mean(unknown[0], known),
                )
        strange = [text for text in selection.objects if not any(names_object(i, text) for i in instructions)]
        strange = [text for text in strange if not _is_pattern(text)]
        if strange and instructions:
            words = {word for instruction in instructions for word in words_of(instruction)}
            raise _bad(
                f"{name}.objects: no instruction of the bags names it",
                strange[0],
                ", ".join(sorted(words)),
                did_you_mean(strange[0], words),
            )


def require_base(base: str) -> None:
    """The folder of the base is there.

    Raises:
        PolicyError: 207 with the nearest folders beside it.
    """
    path = Path(base)
    if path.is_dir():
        return
    beside = path.parent
    near = [entry.name for entry in beside.iterdir() if entry.is_dir()] if beside.is_dir() else []
    raise PolicyError(
        ErrorCode.POLICY_BAD_CHECKPOINT,
        "base: no such folder",
        value=base,
        limit=f"the folder of a checkpoint; {beside} {'holds none' if beside.is_dir() else 'is not there either'}",
        remedy=did_you_mean(path.name, near) if near else "correct base in the request",
    )


def _kept(request: Request) -> dict[str, Selection]:
    """The selections of what must stay."""
    found = {"retain": request.retain, "boundary": request.boundary}
    return {name: selection for name, selection in found.items() if selection is not None}


def _in_both(forget: Selection, kept: Selection) -> tuple[str, ...]:
    return tuple(text for text in forget.rollout_ids if text in kept.rollout_ids)


def _is_pattern(text: str) -> bool:
    return not _PATTERN.isdisjoint(text)


def _both(name: str, rollouts: Sequence[str]) -> UnlearningError:
    return _bad(
        f"forget and {name} name the same rollouts",
        ", ".join(rollouts[:10]) + (f" and {len(rollouts) - 10} more" if len(rollouts) > 10 else ""),
        "a rollout is to be forgotten or to be kept",
        f"take them out of one of forget.rollout_ids and {name}.rollout_ids",
    )


def _bad(what: str, value: str, limit: str, remedy: str) -> UnlearningError:
    return UnlearningError(
        ErrorCode.UNLEARNING_BAD_REQUEST,
        f"bad request: {what}",
        value=value[:200],
        limit=limit[:400],
        remedy=remedy,
    )
