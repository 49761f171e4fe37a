"""Tables and JSON of ``vlaforget episodes``."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from vlaforget_ros.cli.output import plain_table
from vlaforget_ros.errors import ErrorCode, UnlearningError

if TYPE_CHECKING:
    from vlaforget_ros.episodes.checks import BagCheck
    from vlaforget_ros.episodes.findings import Finding
    from vlaforget_ros.episodes.index import Index, IndexEntry


def moment_ns(text: str, option: str) -> int | None:
    """A point in time from an option: ISO 8601 (UTC where it names no zone) or seconds, as stamps count them.

    Raises:
        UnlearningError: 300 when it is neither.
    """
    if not text:
        return None
    try:
        return round(float(text) * 1e9)
    except (ValueError, OverflowError):
        pass
    try:
        when = datetime.fromisoformat(text)
    except ValueError as error:
        raise UnlearningError(
            ErrorCode.UNLEARNING_BAD_REQUEST,
            f"{option} is no point in time",
            value=text,
            limit="2026-11-22, 2026-11-22T14:30+01:00, or seconds of a simulated clock",
            remedy="see the column `start` of `vlaforget episodes list`",
        ) from error
    return round((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1e9)


def episodes(entries: Sequence[IndexEntry], title: str) -> Table:
    """One line for each episode; the bag only where there are several."""
    from vlaforget_ros.episodes.cadence import moment

    several = len({entry.info.source for entry in entries}) > 1
    columns = ["rollout", "instruction", "end", "adapter", "start", "seconds", "Hz", "violations", "health"]
    rows = []
    for entry in entries:
        info = entry.info
        rules = Counter(violation.rule for violation in info.violations)
        row = [
            info.rollout_id,
            info.instruction,
            info.phase.lower(),
            info.adapter_digest[:8] or "base",
            moment(int(info.stamps_ns[0])).removesuffix(" UTC"),
            f"{info.seconds:.1f}",
            f"{entry.cadence.median_hz:.1f}",
            ", ".join(rule if count == 1 else f"{count} x {rule}" for rule, count in rules.items()),
            ", ".join(entry.health) or "ok",
        ]
        rows.append([Path(info.source).name, *row] if several else row)
    return plain_table(["bag", *columns] if several else columns, rows, title)


def remarks(opened: Sequence[Index]) -> list[str]:
    """Problems that belong to bags, not to one of the rollouts."""
    return [
        f"{Path(problem.source).name}: {problem.message}"
        for found in opened
        for problem in found.report().problems
        if not problem.rollout_id and problem.kind != "bag_unreadable"
    ]


def listing(entries: Sequence[IndexEntry], opened: Sequence[Index]) -> dict[str, Any]:
    """The JSON of ``list``."""
    return {
        "episodes": [_episode(entry) for entry in entries],
        "problems": [
            {
                "bag": problem.source,
                "rollout": problem.rollout_id,
                "kind": problem.kind,
                "count": problem.count,
                "message": problem.message,
            }
            for found in opened
            for problem in found.report().problems
        ],
        "indexes": [str(found.file) for found in opened],
    }


def checks(found: Sequence[BagCheck]) -> list[Table]:
    """Topics of a single bag, or the bags; then the findings, those of one kind in one bag together."""
    tables = []
    if len(found) == 1 and found[0].topics:
        rows = [
            [
                fact.topic,
                fact.msgtype,
                str(len(fact.log_ns)),
                f"{fact.cadence.median_hz:.2f}",
                f"{fact.cadence.min_hz:.2f}",
            ]
            for fact in found[0].topics
        ]
        columns = ["topic", "type", "messages", "median Hz", "least Hz"]
        tables.append(plain_table(columns, rows, f"topics of {found[0].bag}"))
    elif len(found) > 1:
        rows = [
            [bag.bag, str(bag.episodes), str(bag.frames), str(len(bag.findings)), str(bag.frames_lost)]
            for bag in found
        ]
        tables.append(plain_table(["bag", "episodes", "frames", "findings", "frames lost"], rows))
    groups: dict[tuple[str, str], list[Finding]] = {}
    for bag in found:
        for finding in bag.findings:
            groups.setdefault((finding.bag, finding.kind), []).append(finding)
    if not groups:
        return [*tables, plain_table(["findings"], [["none"]])]
    rows = [_together(findings, len(found) > 1) for findings in groups.values()]
    columns = ["finding", "where", "count", "frames lost", "what", "consequence", "remedy"]
    return [*tables, plain_table(columns, rows, "findings")]


def checks_document(found: Sequence[BagCheck]) -> dict[str, Any]:
    """The JSON of ``check``."""
    return {
        "bags": [
            {
                "bag": bag.bag,
                "episodes": bag.episodes,
                "frames": bag.frames,
                "frames_lost": bag.frames_lost,
                "episodes_lost": bag.episodes_lost,
                "topics": [
                    {
                        "topic": fact.topic,
                        "type": fact.msgtype,
                        "messages": len(fact.log_ns),
                        **asdict(fact.cadence),
                    }
                    for fact in bag.topics
                ],
                "findings": [asdict(finding) for finding in bag.findings],
            }
            for bag in found
        ]
    }


def _together(findings: Sequence[Finding], several: bool) -> list[str]:
    first = findings[0]
    places = {finding.place for finding in findings}
    where = first.place if len(places) == 1 else f"{len(places)} rollouts, {first.place} the first"
    if several:
        where = f"{Path(first.bag).name} {where}".rstrip()
    count, lost = sum(f.count for f in findings), sum(f.frames_lost for f in findings)
    what = first.message if len(findings) == 1 else f"{first.message}, ..."
    return [first.kind, where, str(count), str(lost), what, first.consequence, first.remedy]


def _episode(entry: IndexEntry) -> dict[str, Any]:
    info, rate = entry.info, entry.cadence
    return {
        "rollout": info.rollout_id,
        "bag": info.source,
        "instruction": info.instruction,
        "adapter_digest": info.adapter_digest,
        "phase": str(info.phase),
        "success": info.success,
        "start_ns": int(info.stamps_ns[0]),
        "start": entry.start.isoformat(),
        "frames": len(info),
        "seconds": info.seconds,
        "rate": asdict(rate),
        "dropped_frames": info.dropped_frames,
        "violations": [
            {**vars(violation), "value": _finite(violation.value), "limit": _finite(violation.limit)}
            for violation in info.violations
        ],
        "health": list(entry.health),
        "image": None if entry.image is None else entry.image.model_dump(),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
