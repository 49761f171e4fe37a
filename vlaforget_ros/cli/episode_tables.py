"""Tables and JSON of ``vlaforget episodes``."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from vlaforget_ros.cli.output import plain_table
from vlaforget_ros.errors import ErrorCode, UnlearningError

if TYPE_CHECKING:
    from vlaforget_ros.episodes.catalogue.checks import BagCheck
    from vlaforget_ros.episodes.catalogue.findings import Finding
    from vlaforget_ros.episodes.catalogue.index import Index, IndexEntry


WIDE = 140
"""Columns of text from which on a table has every column."""


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


def episodes(entries: Sequence[IndexEntry], title: str, room: int = WIDE) -> Table:
    """One line for each episode; in less than :data:`WIDE` columns of text without adapter, start, length and rate."""
    table = Table(title=title, title_justify="left")
    table.add_column("rollout", overflow="fold")
    table.add_column("instruction", overflow="fold")
    table.add_column("end", no_wrap=True)
    several = len({entry.info.source for entry in entries}) > 1
    if room >= WIDE:
        for name in ("adapter", "start", "seconds", "Hz"):
            table.add_column(name, no_wrap=True, justify="right" if name in ("seconds", "Hz") else "left")
        if several:
            table.add_column("bag", overflow="fold")
    table.add_column("violations", overflow="fold")
    table.add_column("health", overflow="fold")
    for entry in entries:
        table.add_row(*_cells(entry, room >= WIDE, several))
    return table


def _cells(entry: IndexEntry, wide: bool, several: bool) -> list[str]:
    from vlaforget_ros.episodes.catalogue.cadence import moment

    info = entry.info
    rules = Counter(violation.rule for violation in info.violations)
    more = [
        info.adapter_digest[:8] or "base",
        moment(int(info.stamps_ns[0])).removesuffix(" UTC"),
        f"{info.seconds:.1f}",
        f"{entry.cadence.median_hz:.1f}",
        *([Path(info.source).name] if several else []),
    ]
    return [
        info.rollout_id,
        info.instruction,
        info.phase.lower(),
        *(more if wide else []),
        ", ".join(rule if count == 1 else f"{count} x {rule}" for rule, count in rules.items()),
        ", ".join(entry.health) or "ok",
    ]


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
        sums = "with checksums" if found[0].checked else "without checksums"
        tables.append(plain_table(columns, rows, f"topics of {found[0].bag} ({sums})"))
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
    table = Table("finding", "what it means", title="findings", title_justify="left", show_lines=True)
    for findings in groups.values():
        table.add_row(*_together(findings))
    return [*tables, table]


def checks_document(found: Sequence[BagCheck]) -> dict[str, Any]:
    """The JSON of ``check``."""
    return {
        "bags": [
            {
                "bag": bag.bag,
                "episodes": bag.episodes,
                "frames": bag.frames,
                "checked": bag.checked,
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


def _together(findings: Sequence[Finding]) -> tuple[str, str]:
    first = findings[0]
    places = {finding.place for finding in findings}
    where = first.place if len(places) == 1 else f"{len(places)} places, first {first.place}"
    count, lost = sum(f.count for f in findings), sum(f.frames_lost for f in findings)
    episodes_lost = sum(f.episodes_lost for f in findings)
    left = [f"[bold]{first.kind}[/] x {count}", Path(first.bag).name, escape(where)]
    left += [f"frames lost: {lost}"] if lost else []
    left += [f"episodes lost: {episodes_lost}"] if episodes_lost else []
    what = first.message if len(findings) == 1 else f"{first.message}; and others"
    right = f"{escape(what)}\n[bold]so[/] {escape(first.consequence)}\n[bold]do[/] {escape(first.remedy)}"
    return "\n".join(text for text in left if text), right


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
