"""Picking frames out of episodes: what shall be forgotten, and what must be kept.

A forget set is usually a window around violations (what led to them), a retain set successful
episodes without any.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal, TypeVar

import numpy as np
from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from vlaforget_ros.episodes.flags import is_flag
from vlaforget_ros.episodes.moments import moment_ns, moment_text, parse_moment
from vlaforget_ros.episodes.objects import names_any, words_of
from vlaforget_ros.episodes.types import NANOSECONDS, Episode, EpisodeInfo, EpisodeSlice, Violation
from vlaforget_ros.errors import ErrorCode, UnlearningError, did_you_mean

_NAMES = ("instructions", "violation_rules", "adapters", "rollout_ids", "objects")
_ADDED_LATER = ("objects", "flagged", "since", "until")
_Known = TypeVar("_Known", bound=EpisodeInfo)
BASE = "base"
"""Name of the base model where an adapter is asked for."""


class Selection(BaseModel):
    """Which episodes, and which of their frames. Every condition that is set must hold.

    Attributes:
        instructions: instructions, or patterns such as ``open *``; one is enough.
        violation_rules: rule ids, or patterns such as ``keep_out/*``: at least one such violation.
        has_violation: true for episodes with any violation, false for those without.
        outcome: ``success``, ``failure`` (said to have failed, not merely aborted) or ``any``.
        adapters: digests, or their first 8 or more digits; ``base`` for the base model.
        rollout_ids: rollout ids, or patterns.
        objects: things that the instruction names, one is enough: see :func:`.objects.names_object`.
        flagged: true for episodes that an operator flagged, false for the others. With true, windows are around
            flags (of ``violation_rules``, where these are set).
        since: episodes whose first frame is at this moment or later: ISO 8601 with a time zone, or seconds of ROS time.
        until: episodes whose first frame is before this moment.
        before_s: keep only frames from this long before a violation [s]; empty: from the episode's start.
        after_s: keep only frames up to this long after a violation [s]; empty: to the episode's end.
        max_frames: keep at most this many frames in all, drawn evenly at random with ``seed``.
        seed: of that draw.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    instructions: tuple[str, ...] = Field((), validation_alias=AliasChoices("instructions", "instruction"))
    violation_rules: tuple[str, ...] = Field(
        (), validation_alias=AliasChoices("violation_rules", "violation_rule")
    )
    has_violation: bool | None = None
    outcome: Literal["success", "failure", "any"] = "any"
    adapters: tuple[str, ...] = Field((), validation_alias=AliasChoices("adapters", "adapter"))
    rollout_ids: tuple[str, ...] = Field((), validation_alias=AliasChoices("rollout_ids", "rollout_id"))
    objects: tuple[str, ...] = Field((), validation_alias=AliasChoices("objects", "object"))
    flagged: bool | None = None
    since: float | str | None = None
    until: float | str | None = None
    before_s: float | None = Field(None, ge=0.0, allow_inf_nan=False)
    after_s: float | None = Field(None, ge=0.0, allow_inf_nan=False)
    max_frames: int | None = Field(None, ge=1)
    seed: int = Field(0, ge=0)

    @field_validator(*_NAMES, mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("objects")
    @classmethod
    def _are_words(cls, objects: tuple[str, ...]) -> tuple[str, ...]:
        if any(not text.strip() for text in objects):
            raise ValueError("an object is named by a word")
        return objects

    @field_validator("since", "until", mode="before")
    @classmethod
    def _is_moment(cls, value: Any) -> Any:
        return None if value is None else parse_moment(value)

    @model_validator(mode="after")
    def _in_order(self) -> Selection:
        times = [moment_ns(moment) for moment in (self.since, self.until) if moment is not None]
        if len(times) == 2 and times[0] >= times[1]:
            raise ValueError(f"`since` {self.since} is not before `until` {self.until}")
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What was added later appears only where it is set: digests of requests without it stay what they were."""
        values: dict[str, Any] = handler(self)
        return {k: v for k, v in values.items() if k not in _ADDED_LATER or v not in ((), [], None)}

    @property
    def windowed(self) -> bool:
        """Whether only frames around violations are kept."""
        return self.before_s is not None or self.after_s is not None

    def matches(self, episode: EpisodeInfo) -> bool:
        """Whether an episode fulfils every condition (windows and ``max_frames`` aside)."""
        outcomes = {"success": episode.success is True, "failure": episode.success is False, "any": True}
        return (
            _any_pattern(episode.instruction, self.instructions)
            and (not self.objects or names_any(episode.instruction, self.objects))
            and (not (self.violation_rules or self.flagged) or bool(self.violations(episode)))
            and (self.flagged is not False or not any(map(is_flag, episode.violations)))
            and self._in_time(episode)
            and (self.has_violation is None or episode.violated == self.has_violation)
            and outcomes[self.outcome]
            and (
                not self.adapters or any(_is_adapter(episode.adapter_digest, name) for name in self.adapters)
            )
            and _any_pattern(episode.rollout_id, self.rollout_ids)
        )

    def violations(self, episode: EpisodeInfo) -> tuple[Violation, ...]:
        """The episode's violations that the selection is about."""
        return tuple(
            v
            for v in episode.violations
            if _any_pattern(v.rule, self.violation_rules) and (not self.flagged or is_flag(v))
        )

    def _in_time(self, episode: EpisodeInfo) -> bool:
        if self.since is None and self.until is None:
            return True
        if not len(episode):
            return False
        first = int(episode.stamps_ns[0])
        return (self.since is None or moment_ns(self.since) <= first) and (
            self.until is None or first < moment_ns(self.until)
        )


def choose(episodes: Sequence[_Known], selection: Selection) -> list[tuple[_Known, np.ndarray]]:
    """Episodes that match, in their order, each with the (K,) int64 indices of the frames that are kept, K >= 1.

    With a window an episode without (matching) violation has no frames. Images are not needed.
    """
    chosen = []
    for episode in episodes:
        if selection.matches(episode):
            indices = np.flatnonzero(_in_window(episode, selection)).astype(np.int64)
            if len(indices):
                chosen.append((episode, indices))
    if selection.max_frames is not None:
        chosen = _thin(chosen, selection.max_frames, selection.seed)
    return chosen


def select(episodes: Sequence[Episode], selection: Selection) -> list[EpisodeSlice]:
    """Frames of the episodes that match, as :func:`choose` has them."""
    return [EpisodeSlice(episode, indices) for episode, indices in choose(episodes, selection)]


def select_forget(episodes: Sequence[Episode], selection: Selection) -> list[EpisodeSlice]:
    """:func:`select` for the forget set.

    Raises UnlearningError 302 when nothing was selected, and says why.
    """
    slices = select(episodes, selection)
    if not slices:
        raise nothing_chosen(
            ErrorCode.UNLEARNING_EMPTY_FORGET_SET, "forget set is empty", episodes, selection
        )
    return slices


def select_retain(
    episodes: Sequence[Episode], selection: Selection, forget: Sequence[EpisodeSlice] = ()
) -> list[EpisodeSlice]:
    """:func:`select` for the retain set, without the rollouts of the forget set.

    Raises:
        UnlearningError: 303 when nothing was selected, and says why.
    """
    forgotten = {part.episode.rollout_id for part in forget}
    left = [episode for episode in episodes if episode.rollout_id not in forgotten]
    slices = select(left, selection)
    if not slices:
        raise nothing_chosen(ErrorCode.UNLEARNING_EMPTY_RETAIN_SET, "retain set is empty", left, selection)
    return slices


def describe(episodes: Sequence[EpisodeInfo]) -> str:
    """What there was to choose from: episodes for each instruction, rule and adapter, and how they ended."""
    if not episodes:
        return "no episodes at all"
    ends = Counter(
        "success" if e.success else "failure" if e.success is False else "aborted" for e in episodes
    )
    instructions = Counter(repr(e.instruction) for e in episodes)
    rules = Counter(rule for e in episodes for rule in {v.rule for v in e.violations})
    adapters = Counter(e.adapter_digest[:8] or BASE for e in episodes)
    parts = [
        f"{len(episodes)} episodes ({_counts(ends)})",
        f"instructions: {_counts(instructions)}",
        f"violated rules: {_counts(rules) or 'none'}",
        f"adapters: {_counts(adapters)}",
    ]
    return "; ".join(parts)


def _in_window(episode: EpisodeInfo, selection: Selection) -> np.ndarray:
    if not selection.windowed:
        return np.ones(len(episode), dtype=bool)
    keep = np.zeros(len(episode), dtype=bool)
    for violation in selection.violations(episode):
        inside = np.ones(len(episode), dtype=bool)
        if selection.before_s is not None:
            inside &= episode.stamps_ns >= violation.stamp_ns - round(selection.before_s * NANOSECONDS)
        if selection.after_s is not None:
            inside &= episode.stamps_ns <= violation.stamp_ns + round(selection.after_s * NANOSECONDS)
        keep |= inside
    return keep


def _thin(chosen: list[tuple[_Known, np.ndarray]], limit: int, seed: int) -> list[tuple[_Known, np.ndarray]]:
    total = sum(len(indices) for _, indices in chosen)
    if total <= limit:
        return chosen
    kept = np.sort(np.random.default_rng(seed).choice(total, size=limit, replace=False))
    thinned, start = [], 0
    for episode, indices in chosen:
        inside = kept[(kept >= start) & (kept < start + len(indices))] - start
        if len(inside):
            thinned.append((episode, indices[inside]))
        start += len(indices)
    return thinned


def nothing_chosen(
    code: ErrorCode, message: str, episodes: Sequence[EpisodeInfo], selection: Selection
) -> UnlearningError:
    """The error for a selection that chose nothing: what was asked for, what there was, what to change."""
    asked = selection.model_dump(exclude_defaults=True) or "everything"
    known = {episode.instruction for episode in episodes}
    unknown = [text for text in selection.instructions if not any(fnmatchcase(name, text) for name in known)]
    rules = {violation.rule for episode in episodes for violation in episode.violations}
    missing = [
        text for text in selection.violation_rules if not any(fnmatchcase(rule, text) for rule in rules)
    ]
    if missing and rules:
        remedy = f"no episode violates the rule {missing[0]!r}: {did_you_mean(missing[0], rules)}"
    elif unknown:
        remedy = f"no episode has the instruction {unknown[0]!r}: {did_you_mean(unknown[0], known)}"
    elif strange := [text for text in selection.objects if not any(names_any(n, (text,)) for n in known)]:
        words = {word for name in known for word in words_of(name)}
        remedy = f"no instruction names {strange[0]!r}: {did_you_mean(strange[0], words)}"
    elif selection.flagged and not any(is_flag(v) for e in episodes for v in e.violations):
        remedy = "no episode was flagged by an operator: select by violation_rules instead"
    elif (selection.since is not None or selection.until is not None) and _outside(episodes, selection):
        first = [int(episode.stamps_ns[0]) for episode in episodes if len(episode)]
        remedy = (
            f"episodes begin from {moment_text(min(first))} to {moment_text(max(first))}: move since, until"
        )
    elif selection.windowed and any(selection.matches(episode) for episode in episodes):
        remedy = "episodes match, but no frame lies in the window: widen before_s or after_s"
    else:
        remedy = "loosen the selection, or record such episodes"
    return UnlearningError(
        code, message, value=f"asked for {asked}", limit=f"looked at {describe(episodes)}", remedy=remedy
    )


def _outside(episodes: Sequence[EpisodeInfo], selection: Selection) -> bool:
    """Whether there are episodes, and all of them are outside since and until."""
    times = Selection.model_validate({"since": selection.since, "until": selection.until})
    return bool(episodes) and not any(times.matches(episode) for episode in episodes)


def _any_pattern(value: str, patterns: Sequence[str]) -> bool:
    return not patterns or any(value == pattern or fnmatchcase(value, pattern) for pattern in patterns)


def _is_adapter(digest: str, name: str) -> bool:
    if name in (BASE, ""):
        return digest == ""
    return digest == name or (len(name) >= 8 and digest.startswith(name))


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counter.items()))
