"""May the adapter be promoted? The gates of all measurements together, and one sentence in plain words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vlaforget_ros.report.words import gate_word, interval, show
from vlaforget_ros.unlearning.gates import Verdict

GateRow = dict[str, Any]
_IN_WORDS = {Verdict.PASSED: "passed", Verdict.FAILED: "failed", Verdict.NOT_MEASURED: "not measured"}


def gate_rows(gates: Sequence[Mapping[str, Any]], source: str) -> list[GateRow]:
    """Gates as they are in a document, with what they mean.

    Args:
        gates: ``name``, ``verdict``, ``value``, ``limit`` and, where there are any, ``n``, ``low``, ``high``.
        source: where they were measured, in words.
    """
    rows = []
    for gate in gates:
        word = gate_word(gate["name"])
        value, low, high = (gate.get(key) for key in ("value", "low", "high"))
        rows.append(
            {
                "name": gate["name"],
                "title": word.title,
                "meaning": word.meaning,
                "unit": word.unit,
                "value": value,
                "low": low,
                "high": high,
                "limit": gate.get("limit"),
                "asks": "at least" if word.better == "up" else "at most",
                "n": gate.get("n"),
                "verdict": str(gate["verdict"]),
                "source": source,
                "shown": {
                    "value": show(value, word.unit),
                    "limit": show(gate.get("limit"), word.unit),
                    "interval": interval(low, high, word.unit),
                    "verdict": _IN_WORDS.get(gate["verdict"], str(gate["verdict"])),
                },
            }
        )
    return rows


def together(*measurements: Sequence[GateRow]) -> list[GateRow]:
    """One row for each gate: what a later measurement says replaces a "not measured", and a failure stays one."""
    found: dict[str, GateRow] = {}
    for rows in measurements:
        for row in rows:
            before = found.get(row["name"])
            if before is None or _weight(row) >= _weight(before):
                found[row["name"]] = row
    return list(found.values())


def judge(rows: Sequence[GateRow]) -> dict[str, Any]:
    """``promotable``, one ``sentence``, and the names of gates that ``failed`` or were ``not_measured``."""
    failed = [row for row in rows if row["verdict"] == Verdict.FAILED]
    missing = [row for row in rows if row["verdict"] == Verdict.NOT_MEASURED]
    measured = len(rows) - len(missing)
    if failed:
        sentence = f"This adapter may not be promoted, because {'; and '.join(map(_because, failed))}."
    elif measured:
        hold = (
            f"all {measured} gates that were measured hold" if measured > 1 else "the one measured gate holds"
        )
        sentence = f"This adapter may be promoted: {hold}."
    else:
        sentence = "Nothing was measured, so nothing can be said about promoting this adapter."
    if missing:
        sentence += f" Not measured: {', '.join(row['title'] for row in missing)}."
    return {
        "promotable": bool(measured) and not failed,
        "sentence": sentence,
        "failed": [row["name"] for row in failed],
        "not_measured": [row["name"] for row in missing],
    }


def _because(row: GateRow) -> str:
    shown = row["shown"]
    brackets = f" {shown['interval']}" if shown["interval"] else ""
    return f"{row['title']} is {shown['value']}{brackets} and {row['asks']} {shown['limit']} is asked for"


def _weight(row: GateRow) -> int:
    return {Verdict.NOT_MEASURED: 0, Verdict.PASSED: 1}.get(row["verdict"], 2)
