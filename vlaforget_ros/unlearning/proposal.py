"""From what an engineer answers about an incident to a request, with what it chooses: nothing is written here."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlaforget_ros.episodes.flags import is_flag
from vlaforget_ros.episodes.moments import moment_text
from vlaforget_ros.episodes.selection import BASE, choose, nothing_chosen
from vlaforget_ros.episodes.types import EpisodeInfo, ScanReport
from vlaforget_ros.errors import ErrorCode, UnlearningError
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.unlearning.contradictions import require_base, require_known
from vlaforget_ros.unlearning.examine import Examined, examine
from vlaforget_ros.unlearning.neighbours import Neighbour, find_neighbours, propose, usual_count
from vlaforget_ros.unlearning.observation import require_topics
from vlaforget_ros.unlearning.request import Request, parse_request

AUTO, NONE = "auto", "none"
NEIGHBOUR = "neighbour:"
"""Before the instruction of a neighbour source."""

Told = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Answers:
    """What is asked for.

    Attributes:
        forget: conditions of the forget selection.
        retain: of the retain selection.
        boundary: ``auto``: near neighbours are looked for; ``none``; or an instruction (or a pattern of one) whose
            clean successes are the boundary set.
        count: most neighbours; None: as many as there are forget episodes, within bounds.
        sources: of counterfactual data: ``clean_successes``, ``transplant``, ``neighbour:INSTRUCTION``; ``auto`` is the
            first where there are any, and the second.
        others: further fields of the request; ``base`` is one of them.
    """

    forget: Mapping[str, Any]
    retain: Mapping[str, Any]
    boundary: str = AUTO
    count: int | None = None
    sources: tuple[str, ...] = (AUTO,)
    others: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Draft:
    """A request before it is written.

    Attributes:
        values: its fields; paths are absolute.
        request: the same, validated.
        examined: what it chooses.
        neighbours: of the boundary set, where they were looked for.
    """

    values: dict[str, Any]
    request: Request
    examined: Examined
    neighbours: tuple[Neighbour, ...]


def overview(episodes: Sequence[EpisodeInfo]) -> dict[str, dict[str, int]]:
    """What there is to choose from: episodes for each rule, instruction, adapter and outcome."""
    ends = Counter({True: "success", False: "failure", None: "unknown"}[e.success] for e in episodes)
    return {
        "rules": dict(
            Counter(rule for e in episodes for rule in {v.rule for v in e.violations}).most_common()
        ),
        "flagged": {"yes": sum(any(map(is_flag, e.violations)) for e in episodes)},
        "instructions": dict(Counter(e.instruction for e in episodes).most_common()),
        "adapters": dict(Counter(e.adapter_digest[:12] or BASE for e in episodes).most_common()),
        "outcomes": dict(ends.most_common()),
    }


def time_span(episodes: Sequence[EpisodeInfo]) -> str:
    """When the first and the last episode begin."""
    first = [int(episode.stamps_ns[0]) for episode in episodes if len(episode)]
    return f"{moment_text(min(first))} to {moment_text(max(first))}" if first else "no frames"


def name_for(forget: Mapping[str, Any]) -> str:
    """A name for the adapter: the rule without its kind, or the instruction; ``edit`` where neither is one."""
    texts = [*forget.get("violation_rules", ()), *forget.get("instructions", ()), *forget.get("objects", ())]
    text = texts[0].rpartition("/")[2] if texts else "flagged" if forget.get("flagged") else ""
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_") or "edit"


def draw_up(
    answers: Answers, bags: Sequence[Path], report: ScanReport, told: Told = lambda what, done, all_: None
) -> Draft:
    """The request that the answers describe, with its sets.

    Args:
        answers: what is asked for.
        bags: recordings.
        report: of their scan.
        told: called with (what is being done, done, all).

    Raises:
        PolicyError: 207 for a base that is not there or unusable.
        UnlearningError: 300 for answers that make no request, 302 and 303 for empty sets.
    """
    base = Path(str(answers.others.get("base", "")))
    require_base(str(base))
    values: dict[str, Any] = {
        **{name: value for name, value in answers.others.items() if value is not None},
        "base": str(base.resolve()),
        "bags": [str(bag.resolve()) for bag in bags],
        "mapping": str(Path(mapping).resolve()) if (mapping := answers.others.get("mapping")) else "",
        "forget": dict(answers.forget),
        "retain": dict(answers.retain),
    }
    request = parse_request(values)
    require_known(request, report.episodes)
    undesired = [episode for episode, _ in choose(report.episodes, request.forget)]
    if not undesired:
        code = ErrorCode.UNLEARNING_EMPTY_FORGET_SET
        raise nothing_chosen(code, "forget set is empty", report.episodes, request.forget)
    found: list[Neighbour] = []
    if answers.boundary == AUTO:
        found = _nearest(answers, request, report, undesired, told)
        if found:
            values["boundary"] = {"rollout_ids": [neighbour.rollout_id for neighbour in found]}
    elif answers.boundary != NONE:
        values["boundary"] = {
            "instructions": [answers.boundary],
            "outcome": "success",
            "has_violation": False,
        }
    sources = [s for text in answers.sources for s in _sources(text, report.episodes, undesired)]
    if sources:
        values["counterfactual"] = sources
    ordered = _ordered(values)
    final = parse_request(ordered)
    examined = examine(
        final, report, images=True, told=lambda done, all_: told("looking at frames", done, all_)
    )
    return Draft(ordered, final, examined, tuple(found))


def _nearest(
    answers: Answers, request: Request, report: ScanReport, undesired: Sequence[EpisodeInfo], told: Told
) -> list[Neighbour]:
    policy = VlaPolicy.load(Path(request.base), request.device)
    require_topics(request, policy.config)
    ids = [episode.rollout_id for episode in undesired]
    ranked = find_neighbours(
        policy,
        report.episodes,
        ids,
        request.topics,
        lambda done, all_: told("looking for neighbours", done, all_),
    )
    return propose(ranked, usual_count(len(ids)) if answers.count is None else answers.count)


def _sources(
    text: str, episodes: Sequence[EpisodeInfo], undesired: Sequence[EpisodeInfo]
) -> list[dict[str, Any]]:
    if text == AUTO:
        asked = {episode.instruction for episode in undesired}
        clean = any(e.success and not e.violated and e.instruction in asked for e in episodes)
        return [{"kind": kind} for kind in (["clean_successes"] if clean else []) + ["transplant"]]
    if text.startswith(NEIGHBOUR):
        return [{"kind": "neighbour", "instruction": text.removeprefix(NEIGHBOUR).strip()}]
    if text == NONE:
        return []
    if text not in ("clean_successes", "transplant"):
        raise UnlearningError(
            ErrorCode.UNLEARNING_BAD_REQUEST,
            "unknown source of counterfactual data",
            value=text,
            limit=f"{AUTO}, {NONE}, clean_successes, transplant, {NEIGHBOUR}INSTRUCTION",
            remedy="see counterfactual sources in docs/unlearning.md",
        )
    return [{"kind": text}]


def _ordered(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields in the order of the model, which is the order in which they are read best; empty ones left out."""
    return {
        name: values[name] for name in Request.model_fields if values.get(name) not in (None, "", (), [], {})
    }
