"""From bags to the four sets of an edit: recorded frames, and what should have been done instead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np

from vlaforget_ros.episodes.chunks import chunked
from vlaforget_ros.episodes.counterfactual import clean_successes, find_triggers, neighbour, transplant
from vlaforget_ros.episodes.dataset import FrameSet, concat, frames_of
from vlaforget_ros.episodes.selection import select, select_forget, select_retain
from vlaforget_ros.episodes.trigger import Trigger
from vlaforget_ros.episodes.types import Episode, EpisodeInfo, EpisodeSlice
from vlaforget_ros.errors import ErrorCode, UnlearningError
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.unlearning import teacher
from vlaforget_ros.unlearning.checks import check_balance
from vlaforget_ros.unlearning.contradictions import require_known, require_separate
from vlaforget_ros.unlearning.data import Earlier, EditData
from vlaforget_ros.unlearning.earlier import EarlierRequest, read_earlier
from vlaforget_ros.unlearning.innocence import retained_causes
from vlaforget_ros.unlearning.needed import Needed, read_needed
from vlaforget_ros.unlearning.observation import require_topics, require_views
from vlaforget_ros.unlearning.request import CounterfactualSource, Request
from vlaforget_ros.unlearning.selected import require_same_bags, require_same_sets
from vlaforget_ros.unlearning.sets import Sets, choose_sets
from vlaforget_ros.unlearning.units import foreign_units, require_actions


@dataclass(frozen=True)
class Gathered:
    """The sets, and a record of where they came from for the report.

    Args:
        data: the sets.
        notes: origin of each set, sources that were empty, problems of the bags.
        remarks: what a reader of the figures must know of the sets.
    """

    data: EditData
    notes: list[str] = field(default_factory=list)
    remarks: tuple[str, ...] = ()


def gather(request: Request, policy: VlaPolicy) -> Gathered:
    """Read the bags of a request and make its sets.

    Args:
        request: what to select.
        policy: the original policy, which is asked what it would do without the trigger.

    Raises:
        UnlearningError: 300 for selections that contradict each other or name what no episode has, and for
            cameras or a state that do not fit the policy (before a bag is read), or when bags or sets are not those
            that a request names as ``selected``, 301 for an unreadable bag, 302 for
            an empty forget set, 303 for an empty retain set, or when every source of counterfactual data is empty.
    """
    before = read_earlier(request.earlier)
    for each in (request, *(part.request for part in before)):
        require_topics(each, policy.config)
        require_same_bags(each)
    found = read_needed(request)
    _require_complete(found, request)
    notes = [f"left out: {problem.count} {problem.kind} ({problem.message})" for problem in found.problems]
    earlier = [_forgotten_by(part, policy) for part in before]
    gathered = from_episodes(found.everything, request, policy, earlier)
    return replace(gathered, notes=notes + gathered.notes)


def _forgotten_by(part: EarlierRequest, policy: VlaPolicy) -> Earlier:
    """What an earlier request called undesired, chosen from its bags as it was then."""
    found = read_needed(part.request)
    _require_complete(found, part.request)
    return Earlier(part.name, from_episodes(found.everything, part.request, policy).data.forget, part.tau)


def from_episodes(
    known: Sequence[EpisodeInfo], request: Request, policy: VlaPolicy, earlier: Sequence[Earlier] = ()
) -> Gathered:
    """As :func:`gather`, from episodes that were read already.

    Args:
        known: all there are; those that no part of the request can use may come without images.
        request: what to select.
        policy: the original policy.
        earlier: what must stay forgotten: with the policy's present answers these frames join the boundary set, and
            their rollouts are left out of all others but the forget set.
    """
    episodes, remarks = _as_the_policy_acts(known, policy)
    forget = select_forget(episodes, request.forget)
    require_separate(request, forget)
    everything = episodes
    present = {part.episode.rollout_id for part in forget}
    shown = {rollout for part in earlier for rollout in part.frames.episodes.tolist()} - present
    episodes = [episode for episode in episodes if episode.rollout_id not in shown]
    retain = select_retain(episodes, request.retain, forget)
    require_known(request, everything)
    if request.selected is not None:
        chosen = choose_sets(everything, request.forget, request.retain, request.boundary)
        require_same_sets(request, chosen.sizes())
    boundary: list[EpisodeSlice] = []
    if request.boundary is not None:
        boundary = [p for p in select(episodes, request.boundary) if p.episode.rollout_id not in present]
    forget_frames = frames_of(forget, f"forget: {len(forget)} episodes")
    sets = [forget_frames, frames_of(retain, f"retain: {len(retain)} episodes")]
    notes = [f"{frames.origin}, {len(frames)} frames" for frames in sets]
    near: list[FrameSet] = []
    notes += _odd(request, forget, retain, boundary)
    if boundary:
        near = [frames_of(boundary, f"boundary: {len(boundary)} episodes")]
        notes.append(f"{near[0].origin}, {len(near[0])} frames")
    repair = _repair(episodes, forget, retain, boundary, request, policy, notes)
    near += repair.anchors
    for part in earlier:
        left = part.frames.take(~np.isin(part.frames.episodes, sorted(present)))
        if len(left):
            near.append(teacher.as_now(policy, left, f"earlier request {part.name}"))
            notes.append(f"boundary: {near[-1].origin}, {len(left)} frames")
    return Gathered(
        EditData(
            forget=replace(forget_frames, desired=repair.desired),
            retain=sets[1],
            boundary=concat(near) if near else None,
            counterfactual=concat(balanced(repair.sets)) if repair.sets else None,
            earlier=tuple(earlier),
        ),
        notes,
        (
            *remarks,
            *retained_causes(request.counterfactual, forget, _kept(retain, boundary), repair.triggers),
        ),
    )


def _as_the_policy_acts(known: Sequence[EpisodeInfo], policy: VlaPolicy) -> tuple[list[Episode], list[str]]:
    """Episodes in chunks of the policy's size, and remarks on their units. Raises UnlearningError 300."""
    pictured = [info for info in known if isinstance(info, Episode)]
    require_views(pictured, policy.config)
    require_actions(pictured, policy.normalisation)
    chunks = [chunked(info, policy.config.chunk) if isinstance(info, Episode) else info for info in known]
    # What has no images is chosen by nothing; it is there for the texts of errors.
    return cast("list[Episode]", chunks), foreign_units(pictured, policy.normalisation)


def _odd(
    request: Request, forget: list[EpisodeSlice], retain: list[EpisodeSlice], boundary: list[EpisodeSlice]
) -> list[str]:
    """Warnings about the balance of the sets, for the record."""
    sets = Sets(*([(part.episode, part.indices) for part in parts] for parts in (forget, retain, boundary)))
    told_otherwise = any(source.kind == "neighbour" for source in request.counterfactual)
    return [str(f) for f in check_balance(sets, told_otherwise) if f.severity == "warning"]


def _require_complete(found: Needed, request: Request) -> None:
    """Raises UnlearningError 301 where not one frame has everything that was asked for beside the main image."""
    lost = [problem for problem in found.problems if "_camera" in problem.kind or "_state" in problem.kind]
    cameras, state = request.shown
    if found.episodes or not found.looked_for or not (cameras or state):
        return
    raise UnlearningError(
        ErrorCode.UNLEARNING_BAG_UNREADABLE,
        "not one frame of the bags has an image of every camera, and a state where one is asked for",
        value="; ".join(dict.fromkeys(problem.message for problem in lost or found.problems))
        or "no episodes",
        limit=", ".join([*cameras, *([state] if state else [])]),
        remedy="record these topics while the policy runs, in the clock and the size of the main camera",
    )


def balanced(sets: Sequence[FrameSet]) -> list[FrameSet]:
    """Small sets repeated until they are about as large as the largest.

    The few episodes of a neighbour show the way that the edited arm will take; the many forget frames show the way
    that it leaves. Drawn by frames alone, batches would hold little of what the arm will see.
    """
    largest = max(len(frames) for frames in sets)
    return [
        frames.take(np.tile(np.arange(len(frames)), max(1, round(largest / len(frames))))) for frames in sets
    ]


@dataclass
class _Repair:
    """Counterfactual sets, desired actions on the forget frames where they are known, and more to be kept."""

    sets: list[FrameSet] = field(default_factory=list)
    desired: np.ndarray | None = None
    anchors: list[FrameSet] = field(default_factory=list)
    triggers: list[Trigger] = field(default_factory=list)


def _kept(retain: list[EpisodeSlice], boundary: list[EpisodeSlice]) -> list[EpisodeSlice]:
    """D_r, and what D_b adds to it."""
    retained = {part.episode.rollout_id for part in retain}
    return [*retain, *(part for part in boundary if part.episode.rollout_id not in retained)]


def _repair(
    episodes: Sequence[Episode],
    forget: list[EpisodeSlice],
    retain: list[EpisodeSlice],
    boundary: list[EpisodeSlice],
    request: Request,
    policy: VlaPolicy,
    notes: list[str],
) -> _Repair:
    repair = _Repair()
    clean = _kept(retain, boundary)
    empty: list[str] = []
    for source in request.counterfactual:
        try:
            if source.kind == "transplant" and not repair.triggers:
                repair.triggers = find_triggers(
                    [part.episode for part in forget], [part.episode for part in clean]
                )
            made = _from_source(source, episodes, forget, clean, repair.triggers, request.seed)
        except UnlearningError as error:
            if error.code != ErrorCode.UNLEARNING_EMPTY_RETAIN_SET:
                raise
            empty.append(str(error))
            continue
        repair.sets.append(made)
        if source.ask_policy and repair.desired is None and source.kind != "clean_successes":
            _ask(repair, source, forget, clean, boundary, policy)
    notes.extend(f"counterfactual: {made.origin}, {len(made)} frames" for made in repair.sets)
    notes.extend(f"boundary: {made.origin}, {len(made)} frames" for made in repair.anchors)
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
    triggers: list[Trigger],
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
            triggers=triggers,
        )
    texts = sorted({episode.instruction for episode in whole})
    return concat([neighbour(clean, source.instruction, text) for text in texts])


def _ask(
    repair: _Repair,
    source: CounterfactualSource,
    forget: list[EpisodeSlice],
    clean: list[EpisodeSlice],
    boundary: list[EpisodeSlice],
    policy: VlaPolicy,
) -> None:
    """What the original policy would do if the cause were not there, and what it must go on doing."""
    if source.kind == "transplant":
        answer = teacher.without_trigger(policy, forget, clean, repair.triggers)
    else:
        answer = teacher.told_otherwise(policy, forget, source.instruction)
        if boundary:
            repair.sets.append(teacher.neighbours_told(policy, forget, boundary, source.instruction))
            repair.anchors.append(teacher.anchors(policy, forget, boundary))
    repair.desired = answer.desired
    if answer.known is not None:
        repair.sets.append(answer.known)
