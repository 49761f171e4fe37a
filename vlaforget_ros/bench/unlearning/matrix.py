"""All cells that were asked for, the missing ones made, as one result document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from vlaforget_ros import figures
from vlaforget_ros.bench.unlearning.cells import (
    RECORDING_SEED,
    Report,
    Settings,
    missing,
    record_bag,
    require_same,
    run_cell,
)
from vlaforget_ros.bench.unlearning.summary import better_on_both, figures_of
from vlaforget_ros.bench.unlearning.variants import REFERENCES, Variant


def measure(
    settings: Settings,
    variants: Sequence[Variant],
    scenarios: Sequence[str],
    seeds: Sequence[int],
    report: Report,
    finished: bool = False,
) -> dict[str, Any]:
    """Run what is missing and sum up.

    Seeds change slowest: after the first of them the whole table is there, with wide intervals.

    Args:
        settings: what is the same for all.
        variants: rows.
        scenarios: planted behaviours.
        seeds: of the edits; references have no edit and are measured once.
        report: called with (what, done, all).
        finished: run nothing, sum up the cells that are there.
    """
    require_same(settings)
    if not finished:
        for scenario in scenarios:
            record_bag(settings, scenario, report)
    wanted = [
        (variant, scenario, seed)
        for seed in seeds
        for variant in variants
        for scenario in scenarios
        if (seed == seeds[0] or variant.name not in REFERENCES)
        and not (finished and missing(settings, variant, scenario, seed))
    ]
    cells = []
    for place, (variant, scenario, seed) in enumerate(wanted):

        def told(what: str, done: int, total: int, place: int = place) -> None:
            report(f"cell {place + 1} of {len(wanted)}: {what}", done, total)

        cells.append(run_cell(settings, variant, scenario, seed, told))
    return figures.document(
        "unlearning",
        figures_of(cells),
        sorted({cell["seed"] for cell in cells}),
        recording_seed=RECORDING_SEED,
        episodes=asdict(settings.episodes),
        threads=settings.threads,
        commits=sorted({cell["commit"] for cell in cells}),
        better_on_both=better_on_both(cells),
        better_in_one={name: better_on_both(cells, name) for name in scenarios},
        variants=[asdict(v) for v in variants if v.name in {cell["variant"] for cell in cells}],
        scenarios=list(scenarios),
        errors={f"{c['variant']}-{c['scenario']}-{c['seed']}": c["error"] for c in cells if c["error"]},
        remarks={
            f"{c['variant']}-{c['scenario']}-{c['seed']}": c["edit"]["remarks"]
            for c in cells
            if c["edit"] and c["edit"]["remarks"]
        },
    )
