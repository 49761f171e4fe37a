"""All cells that were asked for, the missing ones made, as one result document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vlaforget_ros import figures
from vlaforget_ros.bench.unlearning.cells import (
    Report,
    Settings,
    identity,
    missing,
    record_bag,
    require_same,
    run_cell,
)
from vlaforget_ros.bench.unlearning.rows import Key, Row, read_rows, write_rows
from vlaforget_ros.bench.unlearning.summary import better_on_both, figures_of, outcomes_of, row_of
from vlaforget_ros.bench.unlearning.variants import BASE, REFERENCES, Variant


def measure(
    settings: Settings,
    variants: Sequence[Variant],
    scenarios: Sequence[str],
    seeds: Sequence[int],
    report: Report,
    finished: bool = False,
    kept: Path | None = None,
) -> dict[str, Any]:
    """Run what is missing and sum up.

    Seeds change slowest: after the first of them the whole table is there, with wide intervals.

    Args:
        settings: what is the same for all.
        variants: rows, the base first.
        scenarios: planted behaviours.
        seeds: of the edits; references have no edit and are measured once.
        report: called with (what, done, all).
        finished: run nothing, sum up the cells that are there.
        kept: file of rows of earlier runs; they are not run again, and new ones are added to it.
    """
    require_same(settings)
    known = read_rows(kept, identity(settings)) if kept else {}
    wanted = [
        (variant, scenario, seed)
        for seed in seeds
        for variant in variants
        for scenario in scenarios
        if seed == seeds[0] or variant.name not in REFERENCES
    ]
    to_make = [
        one
        for one in wanted
        if not (missing(settings, *one) if finished else _done(known, one, settings.attacks))
    ]
    made = _made(settings, to_make, known, report, finished)
    known |= {row.key: row.after(known.get(row.key)) for row in made}
    if kept:
        write_rows(kept, identity(settings), known.values())
    rows = [known[key] for key in map(_key, wanted) if key in known]
    return _document(settings, variants, scenarios, rows)


def _key(one: tuple[Variant, str, int]) -> Key:
    return one[0].name, one[1], one[2]


def _done(known: Mapping[Key, Row], one: tuple[Variant, str, int], attacks: bool) -> bool:
    """Whether an earlier row says all that is asked. The base's episodes are what all others are measured against."""
    row = known.get(_key(one))
    if row is None or (attacks and not row.attacked):
        return False
    return bool(row.episodes) or row.variant != BASE.name


def _made(
    settings: Settings,
    wanted: Sequence[tuple[Variant, str, int]],
    known: Mapping[Key, Row],
    report: Report,
    finished: bool,
) -> list[Row]:
    """A row for each cell."""
    bases = {scenario: row.episodes for (name, scenario, _), row in known.items() if name == BASE.name}
    rows = []
    for place, (variant, scenario, seed) in enumerate(wanted):

        def told(what: str, done: int, total: int, place: int = place) -> None:
            report(f"cell {place + 1} of {len(wanted)}: {what}", done, total)

        if not finished:
            record_bag(settings, scenario, told)
        cell = run_cell(settings, variant, scenario, seed, told)
        if variant.name == BASE.name:
            bases[scenario] = tuple(outcomes_of(cell))
        # Without the base's episodes, where cells are only summed up, there is nothing to measure one against.
        if bases.get(scenario):
            rows.append(row_of(cell, bases[scenario]))
    return rows


def _document(
    settings: Settings, variants: Sequence[Variant], scenarios: Sequence[str], rows: Sequence[Row]
) -> dict[str, Any]:
    names = {row.variant for row in rows}
    return figures.document(
        "unlearning",
        figures_of(rows),
        sorted({row.seed for row in rows}),
        recording_seed=settings.recording_seed,
        episodes=asdict(settings.episodes),
        threads=settings.threads,
        machines=sorted({row.machine for row in rows}),
        commits=sorted({row.commit for row in rows}),
        better_on_both=better_on_both(rows),
        better_in_one={name: better_on_both(rows, name) for name in scenarios},
        variants=[asdict(v) for v in variants if v.name in names],
        scenarios=list(scenarios),
        errors={"-".join(map(str, row.key)): row.error for row in rows if row.error},
        remarks={"-".join(map(str, row.key)): list(row.remarks) for row in rows if row.remarks},
    )
