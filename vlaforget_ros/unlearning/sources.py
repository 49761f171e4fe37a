"""From bags to the four sets of an edit: recorded frames, and what should have been done instead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from vlaforget_ros.episodes.counterfactual import (
    clean_successes,
    find_triggers,
    neighbour,
    paste,
    transplant,
)
from vlaforget_ros.episodes.dataset import FrameSet, concat, frames_of
from vlaforget_ros.episodes.reader import read_many
from vlaforget_ros.episodes.selection import select, select_forget, select_retain
from vlaforget_ros.episodes.trigger import Trigger, median_picture
from vlaforget_ros.episodes.types import Episode, EpisodeSlice
from vlaforget_ros.errors import ErrorCode, UnlearningError
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.unlearning.data import EditData
from vlaforget_ros.unlearning.metrics import actions_of
from vlaforget_ros.unlearning.request import CounterfactualSource, Request


@dataclass(frozen=True)
class Gathered:
    """The sets, and a record of where they came from for the report.

    Args:
        data: the sets.
        notes: origin of each set, sources that were empty, problems of the bags.
    """

    data: EditData
    notes: list[str] = field(default_factory=list)


def gather(request: Request, policy: VlaPolicy) -> Gathered:
    """Read the bags of a request and make its sets.

    Args:
        request: what to select.
        policy: the original policy, which is asked what it would do without the trigger.

    Raises:
        UnlearningError: 301 for an unreadable bag, 302 for an empty forget set, 303 for an empty retain set,
            or when every source of counterfactual data is empty.
    """
    report = read_many([Path(bag) for bag in request.bags])
    notes = [f"left out: {problem.count} {problem.kind} ({problem.message})" for problem in report.problems]
    gathered = from_episodes(report.episodes, request, policy)
    return replace(gathered, notes=notes + gathered.notes)


def from_episodes(episodes: Sequence[Episode], request: Request, policy: VlaPolicy) -> Gathered:
    """As :func:`gather`, from episodes that were read already."""
    forget = select_forget(episodes, request.forget)
    retain = select_retain(episodes, request.retain, forget)
    boundary: list[EpisodeSlice] = []
    if request.boundary is not None:
        rollouts = {part.episode.rollout_id for part in forget}
        boundary = [p for p in select(episodes, request.boundary) if p.episode.rollout_id not in rollouts]
    forget_frames = frames_of(forget, f"forget: {len(forget)} episodes")
    sets = [forget_frames, frames_of(retain, f"retain: {len(retain)} episodes")]
    notes = [f"{frames.origin}, {len(frames)} frames" for frames in sets]
    boundary_frames = None
    if boundary:
        boundary_frames = frames_of(boundary)
        notes.append(f"boundary: {len(boundary)} episodes, {len(boundary_frames)} frames")
    repair = _repair(episodes, forget, [*retain, *boundary], request, policy, notes)
    return Gathered(
        EditData(
            forget=replace(forget_frames, desired=repair.desired),
            retain=sets[1],
            boundary=boundary_frames,
            counterfactual=concat(repair.sets) if repair.sets else None,
        ),
        notes,
    )


@dataclass
class _Repair:
    """Counterfactual sets, and the desired actions on the forget frames where they are known."""

    sets: list[FrameSet] = field(default_factory=list)
    desired: np.ndarray | None = None


def _repair(
    episodes: Sequence[Episode],
    forget: list[EpisodeSlice],
    clean: list[EpisodeSlice],
    request: Request,
    policy: VlaPolicy,
    notes: list[str],
) -> _Repair:
    repair = _Repair()
    empty: list[str] = []
    for source in request.counterfactual:
        try:
            made = _from_source(source, episodes, forget, clean, request.seed)
        except UnlearningError as error:
            if error.code != ErrorCode.UNLEARNING_EMPTY_RETAIN_SET:
                raise
            empty.append(str(error))
            continue
        repair.sets.append(made)
        notes.append(f"counterfactual: {made.origin}, {len(made)} frames")
        if source.on_forget_frames and repair.desired is None and source.kind != "clean_successes":
            _ask_policy(repair, source, forget, clean, policy, notes)
    if request.counterfactual and not repair.sets:
        raise UnlearningError(
            ErrorCode.UNLEARNING_EMPTY_RETAIN_SET,
            "every source of counterfactual data is empty",
            value="; ".join(empty),
            remedy="record clean episodes of these situations or name a neighbour instruction",
        )
    notes.extend(f"left out: {reason}" for reason in empty)
    return repair


def _from_source(
    source: CounterfactualSource,
    episodes: Sequence[Episode],
    forget: list[EpisodeSlice],
    clean: list[EpisodeSlice],
    seed: int,
) -> FrameSet:
    whole = [part.episode for part in forget]
    if source.kind == "clean_successes":
        return clean_successes(episodes, whole)
    if source.kind == "transplant":
        return transplant(
            whole,
            clean,
            seed=seed,
            jitter_px=source.jitter_px,
            other_instructions=source.other_instructions,
        )
    texts = sorted({episode.instruction for episode in whole})
    return concat([neighbour(clean, source.instruction, text) for text in texts])


def _ask_policy(
    repair: _Repair,
    source: CounterfactualSource,
    forget: list[EpisodeSlice],
    clean: list[EpisodeSlice],
    policy: VlaPolicy,
    notes: list[str],
) -> None:
    """What the original policy would do on the forget frames if the cause were not there.

    Frames for which that is known join the counterfactual data. Where no trigger was found in an episode its
    own actions stand in for the desired ones: nothing is pushed away that is not known to be wrong.
    """
    frames = frames_of(forget)
    asked, known = _without_cause(source, frames, forget, clean)
    desired = frames.actions.copy()
    if known.any():
        rows = np.flatnonzero(known)
        desired[rows] = actions_of(policy, asked.take(rows))
        origin = f"the original policy on {len(rows)} forget frames without the cause ({source.kind})"
        made = replace(frames, actions=desired).take(rows, origin)
        repair.sets.append(made)
        notes.append(f"counterfactual: {origin}")
    repair.desired = desired


def _without_cause(
    source: CounterfactualSource, frames: FrameSet, forget: list[EpisodeSlice], clean: list[EpisodeSlice]
) -> tuple[FrameSet, np.ndarray]:
    """The forget frames with the cause taken away, and where that was possible."""
    if source.kind == "neighbour":
        texts = (source.instruction,) * len(frames)
        return FrameSet(frames.images, texts, frames.actions), np.ones(len(frames), dtype=bool)
    triggers = {
        t.rollout_id: t for t in find_triggers([p.episode for p in forget], [p.episode for p in clean])
    }
    backgrounds = {part.episode.instruction: median_picture(part.episode) for part in clean}
    images, known = frames.images.copy(), np.zeros(len(frames), dtype=bool)
    for number, part in enumerate(forget):
        trigger = triggers.get(part.episode.rollout_id)
        if trigger is None:
            continue
        cover = replace(trigger, picture=backgrounds[part.episode.instruction])
        rows = np.flatnonzero(frames.episodes == number)
        images[rows] = _painted(images[rows], median_picture(part.episode), cover)
        known[rows] = True
    return FrameSet(images, frames.instructions, frames.actions), known


def _painted(images: np.ndarray, background: np.ndarray, cover: Trigger) -> np.ndarray:
    return np.stack([paste(image, background, cover) for image in images])
