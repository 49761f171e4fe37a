"""Plots of an edit's record: layer scores and loss curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, SymmetricalLogLocator

_STAGES = {"visual": "#6a51a3", "projector": "#238b45", "language": "#d94801"}
_TERMS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#17becf")
_SKIPPED = ("step", "cosine", "projected")
# Below this a weighted term no longer moves anything; the axis is linear there, as terms reach zero and below.
_LINEAR = 0.01
_COLUMNS = 3


def edit_plots(record: Mapping[str, Any]) -> dict[str, Figure]:
    """Title -> plot of what an edit recorded (edit.json); methods without scores or steps have no such plot."""
    found = {}
    if any(done["scores"] for done in record["rounds"]):
        found["Score of each layer"] = scores_figure(record)
    if any(done["curve"] for done in record["rounds"]):
        found["Losses of each round"] = curves_figure(record)
    return found


def scores_figure(record: Mapping[str, Any]) -> Figure:
    """Scores of all layers, a panel for each stage; edited layers are filled, those rolled back hatched."""
    firsts = {r["stage"]: r for r in reversed(record["rounds"]) if r["scores"]}
    stages = [stage for stage in _STAGES if stage in firsts]
    most = max(len(firsts[stage]["scores"]) for stage in stages)
    figure = Figure(figsize=(8.0, 1.0 + 0.26 * max(3, most)), layout="constrained")
    for axes, stage in zip(figure.subplots(1, len(stages), squeeze=False)[0], stages, strict=True):
        rounds = [r for r in record["rounds"] if r["stage"] == stage]
        kept = {layer for r in rounds if r["kept"] for layer in r["layers"]}
        tried = {layer for r in rounds for layer in r["layers"]}
        scores = sorted(firsts[stage]["scores"], key=lambda score: _place(score["layer"]))
        for place, score in enumerate(scores):
            layer, colour = score["layer"], _STAGES[stage]
            axes.barh(
                place,
                score["score"],
                0.7,
                color=colour if layer in kept else "none",
                edgecolor=colour,
                hatch="////" if layer in tried - kept else None,
            )
        axes.set_yticks(range(len(scores)), [_short(s["layer"]) for s in scores], fontsize=8)
        axes.set_ylim(max(2.5, most - 0.5), -0.6)
        name = "Sig = |g_f| / |g_r|" if stage == "language" else "phi"
        axes.set_title(f"{stage}: {name}", fontsize=9)
        axes.tick_params(axis="x", labelsize=7)
        axes.locator_params(axis="x", nbins=4)
        _plain(axes)
    return figure


def curves_figure(record: Mapping[str, Any]) -> Figure:
    """Weighted terms of the objective over the steps, a panel for each round, all with one axis."""
    rounds = [done for done in record["rounds"] if done["curve"]]
    terms = list(dict.fromkeys(n for r in rounds for point in r["curve"] for n in point if n not in _SKIPPED))
    rows = -(-len(rounds) // _COLUMNS)
    columns = min(_COLUMNS, len(rounds))
    figure = Figure(figsize=(8.0, 0.6 + 2.3 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).flatten()
    for axes, done in zip(panels, rounds, strict=False):
        for term, colour in zip(terms, _cycle(len(terms)), strict=True):
            points = [(point["step"], point[term]) for point in done["curve"] if term in point]
            if points:
                axes.plot(*zip(*points, strict=True), lw=1.2, color=colour, label=term)
        axes.set_title(
            f"{done['stage']} {done['round']}{'' if done['kept'] else ' (rolled back)'}", fontsize=9
        )
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=7)
        _plain(axes)
    _logarithmic(
        panels[0], [abs(point[t]) for r in rounds for point in r["curve"] for t in terms if t in point]
    )
    for axes in panels[len(rounds) :]:
        axes.set_visible(False)
    for row in range(rows):
        panels[row * columns].set_ylabel("weighted term", fontsize=8)
    handles = {
        label: h for axes in panels for h, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    columns = min(8, len(terms))
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside lower center",
        ncols=columns,
        fontsize=8,
        frameon=False,
    )
    return figure


def _logarithmic(axes: Axes, values: Sequence[float]) -> None:
    """Logarithmic above and below zero; more ticks where the values span less than two powers of ten."""
    seen = [value for value in values if value > _LINEAR]
    few = not seen or max(seen) < 100 * min(seen)
    axes.set_yscale("symlog", linthresh=_LINEAR)
    subs = (1.0, 2.0, 5.0) if few else (1.0,)
    axes.yaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=_LINEAR, subs=subs))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _cycle(count: int) -> Sequence[str]:
    return [_TERMS[index % len(_TERMS)] for index in np.arange(count)]


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.2)
    axes.set_axisbelow(True)


def _place(layer: str) -> list[tuple[int, str]]:
    """Numbers in names in the order of numbers."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in layer.split(".")]


def _short(layer: str) -> str:
    parts = layer.split(".")
    if parts[0] == "projector":
        return parts[-1]
    if "fused" in layer:
        return f"fused {parts[-1]}"
    return f"{'block' if 'vision' in layer else 'layer'} {parts[-1]}"
