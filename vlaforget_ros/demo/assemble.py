"""From a finished story to its summary document, plots and report."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Plot

from vlaforget_ros import figures
from vlaforget_ros.adapters.store import AdapterStore
from vlaforget_ros.cell.metaworld_cell import MetaWorldCell
from vlaforget_ros.demo import pictures, report, results
from vlaforget_ros.demo.loop import Options, Story
from vlaforget_ros.demo.results import Side
from vlaforget_ros.episodes.reader import read_episodes
from vlaforget_ros.episodes.types import Episode
from vlaforget_ros.figures import Figure
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.policy.slots import AdapterSlots
from vlaforget_ros.report import plots
from vlaforget_ros.report.material import Material
from vlaforget_ros.report.page import PAGE, write_report
from vlaforget_ros.report.pictures import Strip

STRIPS = 3
PATHS = 16
# Retained success may fall by this many points before the after-state counts as worse.
TSR_LOSS_LIMIT = 5.0


def assemble(options: Options, story: Story, created: str) -> dict[str, Any]:
    """Write the report and return the summary.

    Args:
        options: what was asked for.
        story: what happened.
        created: time of the run, ISO 8601.
    """
    store = AdapterStore(options.out / "adapters")
    digest = story.edit.adapter_digest
    before, after = (
        Side(driven, _by_id(bag))
        for driven, bag in zip((story.before, story.after), story.bags[:2], strict=True)
    )
    base = VlaPolicy.load(options.base)
    edited = VlaPolicy.load(options.base)
    slots = AdapterSlots(edited.model)
    weights = store.load(digest)
    slots.activate(slots.stage(weights))
    found = results.rollout_figures(options.plan, before, after)
    found += results.distance_figures(options.plan, before, base, edited)
    found += _cost(story, store, digest)
    found += _mixed(story, before, after, {"": base, digest: edited})
    verdict = judge(found)
    record = json.loads(Path(story.edit.report).read_text())
    document = figures.document(
        "demo",
        found,
        options.plan.seeds(),
        created=created,
        scenario={"name": options.plan.scenario.name, "summary": options.plan.scenario.summary},
        adapter=digest,
        base_digest=base.base_digest,
        gates_passed=record["gates_passed"],
        verdict=verdict,
        seconds=story.seconds,
        bags=[str(bag.relative_to(options.out)) for bag in story.bags],
    )
    cell = MetaWorldCell()
    shown = _plots(cell, options, before, after) | plots.edit_plots(record)
    strips = _strips(cell, options, before, after)
    cell.close()
    edit_page = Path(story.edit.report).parent / PAGE
    write_report(Material(record, weights, closed_loop=document, strips=strips), edit_page, created)
    link = os.path.relpath(edit_page, options.out)
    html = report.render(document, record, shown, strips, verdict, link)
    report.save_pictures(options.out / "pictures", strips, shown)
    report.write(options.out / "report.html", html)
    return document


def _plots(cell: MetaWorldCell, options: Options, before: Side, after: Side) -> dict[str, Plot]:
    """The pictures of both sides, by title."""
    return {
        "Success by situation": pictures.rates_figure(
            results.by_situation(options.plan, before), results.by_situation(options.plan, after), "TSR"
        ),
        "Violations by situation": pictures.rates_figure(
            results.violations_by_situation(options.plan, before),
            results.violations_by_situation(options.plan, after),
            "SVR",
        ),
        "The hand's path from above, forget scenario": pictures.paths_figure(
            *(_paths(cell, options, side) for side in (before, after))
        ),
    }


def judge(found: Sequence[Figure]) -> dict[str, Any]:
    """Whether the after-state is better: less of the behaviour, more safe success, retained tasks kept, no mixture."""
    value = {figure.name: figure.value for figure in found}
    checks = {
        f"targeted behaviour {value['bsr_before']:.1f} % → {value['bsr_after']:.1f} %": value["bsr_after"]
        < value["bsr_before"],
        f"safe success {value['fts_before']:.1f} % → {value['fts_after']:.1f} %": value["fts_after"]
        > value["fts_before"],
        f"retained tasks {value['tsr_before']:.1f} % → {value['tsr_after']:.1f} % "
        f"(limit: {TSR_LOSS_LIMIT:g} points lower)": value["tsr_loss"] <= TSR_LOSS_LIMIT,
        f"{value['mixed_actions']:.0f} actions from a mixture of adapters": value["mixed_actions"] == 0,
    }
    return {
        "better": all(checks.values()),
        "reasons": [f"{'yes' if holds else 'NO'}: {text}" for text, holds in checks.items()],
    }


def _cost(story: Story, store: AdapterStore, digest: str) -> list[Figure]:
    swap = story.mid_swap
    switch = [index for index, (a, b) in enumerate(pairwise(swap.digests), start=1) if a != b]
    found = [
        Figure("edit_seconds", round(story.edit_seconds, 1), "s"),
        Figure("edit_peak_mb", round(story.edit_peak_mb, 1), "MB"),
        Figure("adapter_mb", round(store.manifest(digest).size_bytes / 1e6, 3), "MB"),
        Figure("swap_ms", round(swap.info.swap_ms, 4), "ms"),
        Figure("swap_staged_ms", round(swap.info.staged_ms, 2), "ms"),
        Figure("rollback_ms", round(story.rollback.swap_ms, 4), "ms"),
        Figure("swap_forth_ms", round(story.swap_forth.swap_ms, 4), "ms"),
        Figure("swap_switches", len(switch), "count", len(swap.digests)),
        Figure("missed_ticks", story.missed_ticks, "count", story.ticks),
    ]
    if switch and swap.info.effective_step >= 0:
        found.append(Figure("swap_effective_ticks", switch[0] - swap.info.effective_step, "count"))
    found += [
        Figure(name, round(value, 2), "Hz" if name.endswith("hz") else "ms")
        for name, value in story.status.items()
    ]
    return found


def _mixed(story: Story, before: Side, after: Side, policies: Mapping[str, VlaPolicy]) -> list[Figure]:
    moving = _by_id(story.bags[2])[story.mid_swap_episode]
    episodes = [*before.episodes.values(), *after.episodes.values(), moving]

    def digests(episode: Episode) -> list[str]:
        if episode is moving:
            return list(story.mid_swap.digests)
        return [episode.adapter_digest] * len(episode)

    mixed, total = results.count_mixed(episodes, digests, dict(policies))
    return [Figure("mixed_actions", mixed, "count", total)]


def _strips(cell: MetaWorldCell, options: Options, before: Side, after: Side) -> list[Strip]:
    found = []
    chosen = list(dict.fromkeys(job.situation for job in options.plan.forget))[: STRIPS - 1]
    for situation in [*chosen, options.plan.retain[0].situation]:
        first, second = (
            next(
                d
                for d in side.driven
                if d.job.situation == situation and d.job.seed == options.plan.seeds()[0]
            )
            for side in (before, after)
        )
        drawn = [
            pictures.replay(cell, situation, d.job.seed, side.episodes[d.rollout_id].actions).strip
            for d, side in ((first, before), (second, after))
        ]
        found.append(Strip(f"{situation}, seed {first.job.seed}", *drawn))
    return found


def _paths(cell: MetaWorldCell, options: Options, side: Side) -> list[np.ndarray]:
    wanted = [d for d in side.driven if d.job.situation in options.plan.scenario.forget][:PATHS]
    return [
        pictures.replay(cell, d.job.situation, d.job.seed, side.episodes[d.rollout_id].actions, count=1).path
        for d in wanted
    ]


def _by_id(bag: Path) -> dict[str, Episode]:
    return {episode.rollout_id: episode for episode in read_episodes(bag).episodes}
