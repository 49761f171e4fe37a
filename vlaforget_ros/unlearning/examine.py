"""A request held against its bags: what it chooses, and what is odd about that. Nothing is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vlaforget_ros.episodes.selection import nothing_chosen
from vlaforget_ros.episodes.types import Episode, EpisodeInfo, ScanReport
from vlaforget_ros.errors import ErrorCode
from vlaforget_ros.unlearning.checks import Finding, check_balance, check_overlap
from vlaforget_ros.unlearning.contradictions import require_known
from vlaforget_ros.unlearning.leakage import Marks, check_leakage, marks_of
from vlaforget_ros.unlearning.loading import load
from vlaforget_ros.unlearning.request import Request
from vlaforget_ros.unlearning.sets import Sets, choose_sets

Told = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Examined:
    """What a request chooses.

    Attributes:
        sets: episodes and frames.
        findings: warnings first.
    """

    sets: Sets[EpisodeInfo]
    findings: tuple[Finding, ...]


def examine(
    request: Request, report: ScanReport, images: bool, told: Told = lambda done, all_: None
) -> Examined:
    """The sets of a request.

    Args:
        request: the request.
        report: of a scan of its bags.
        images: also read the images of what is chosen: frames are then counted exactly (a scan also counts images
            that cannot be decoded), and leakage is looked for.
        told: called with (episodes read, episodes to read).

    Raises:
        UnlearningError: 300 for names that nothing in the bags has, 302 for an empty forget set, 303 for an empty
            retain set, 301 for a bag that cannot be read again.
    """
    require_known(request, report.episodes)
    episodes: Sequence[EpisodeInfo] = report.episodes
    marks: dict[str, Marks] = {}
    if images:
        episodes, marks = _look(request, episodes, told)
    sets = choose_sets(episodes, request.forget, request.retain, request.boundary)
    if not sets.forget:
        code = ErrorCode.UNLEARNING_EMPTY_FORGET_SET
        raise nothing_chosen(code, "forget set is empty", episodes, request.forget)
    if not sets.retain:
        present = {episode.rollout_id for episode, _ in sets.forget}
        left = [episode for episode in episodes if episode.rollout_id not in present]
        code = ErrorCode.UNLEARNING_EMPTY_RETAIN_SET
        raise nothing_chosen(code, "retain set is empty", left, request.retain)
    told_otherwise = any(source.kind == "neighbour" for source in request.counterfactual)
    kept = {"retain": request.retain, "boundary": request.boundary}
    found = check_balance(sets, told_otherwise) + _leakage(sets, marks)
    found += check_overlap(sets, episodes, kept, report.problems)
    return Examined(sets, tuple(sorted(found, key=lambda finding: finding.severity != "warning")))


def _look(
    request: Request, episodes: Sequence[EpisodeInfo], told: Told
) -> tuple[list[EpisodeInfo], dict[str, Marks]]:
    """All episodes, those that the request may choose as reading them has them, and the marks of these."""
    whole = [
        None if selection is None else selection.model_copy(update={"max_frames": None})
        for selection in (request.forget, request.retain, request.boundary)
    ]
    wanted = choose_sets(
        episodes, whole[0] or request.forget, whole[1] or request.retain, whole[2]
    ).episodes()
    marks: dict[str, Marks] = {}
    read: dict[str, EpisodeInfo] = {}
    for done, episode in enumerate(load(wanted, request.topics), start=1):
        marks[episode.rollout_id] = marks_of(episode)
        read[episode.rollout_id] = _without_images(episode)
        told(done, len(wanted))
    lost = {episode.rollout_id for episode in wanted} - read.keys()
    return [read.get(e.rollout_id, e) for e in episodes if e.rollout_id not in lost], marks


def _leakage(sets: Sets[EpisodeInfo], marks: dict[str, Marks]) -> list[Finding]:
    if not marks:
        return []
    undesired = [episode.rollout_id for episode, _ in sets.forget]
    kept = dict.fromkeys(episode.rollout_id for episode, _ in [*sets.retain, *sets.boundary])
    return check_leakage([marks[name] for name in undesired], [marks[name] for name in kept])


def _without_images(episode: Episode) -> EpisodeInfo:
    return EpisodeInfo(
        rollout_id=episode.rollout_id,
        instruction=episode.instruction,
        adapter_digest=episode.adapter_digest,
        stamps_ns=episode.stamps_ns,
        success=episode.success,
        phase=episode.phase,
        violations=episode.violations,
        source=episode.source,
        dropped_frames=episode.dropped_frames,
        damage=episode.damage,
    )
