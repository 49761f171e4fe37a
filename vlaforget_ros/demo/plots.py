"""Plots of an edit's record: layer scores and loss curves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

_COLOURS = {"visual": "#6a51a3", "projector": "#238b45", "language": "#d94801"}
_SKIPPED = ("step", "cosine", "projected")


def edit_plots(record: Mapping[str, Any]) -> dict[str, Figure]:
    """Title -> plot of what an edit recorded (edit.json)."""
    return {"Layer scores": scores_figure(record), "Losses of the edit": curves_figure(record)}


def scores_figure(record: Mapping[str, Any]) -> Figure:
    """Scores of all layers by stage; edited layers are filled."""
    firsts = {r["stage"]: r for r in reversed(record["rounds"])}
    stages = [stage for stage in _COLOURS if stage in firsts]
    figure = Figure(figsize=(8.0, 2.6), layout="constrained")
    for axes, stage in zip(figure.subplots(1, max(1, len(stages)), squeeze=False)[0], stages, strict=False):
        edited = {layer for r in record["rounds"] if r["stage"] == stage for layer in r["layers"]}
        scores = sorted(firsts[stage]["scores"], key=lambda s: s["layer"])
        for place, score in enumerate(scores):
            filled = score["layer"] in edited
            axes.bar(
                place, score["score"], color=_COLOURS[stage] if filled else "none", edgecolor=_COLOURS[stage]
            )
        axes.set_xticks(range(len(scores)), [_short(s["layer"]) for s in scores], fontsize=7, rotation=30)
        axes.set_title(f"{stage}: {'Sig' if stage == 'language' else 'phi'}", fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def curves_figure(record: Mapping[str, Any]) -> Figure:
    """Weighted losses over the steps of all rounds."""
    figure = Figure(figsize=(8.0, 3.0), layout="constrained")
    axes = figure.subplots()
    series: dict[str, tuple[list[float], list[float]]] = {}
    offset = 0
    for done in record["rounds"]:
        axes.axvline(offset, color="#bbbbbb", lw=0.8)
        axes.text(
            offset, 1.0, f" {done['stage']} {done['round']}", transform=axes.get_xaxis_transform(), fontsize=7
        )
        for point in done["curve"]:
            for name, value in point.items():
                if name not in _SKIPPED:
                    xs, ys = series.setdefault(name, ([], []))
                    xs.append(offset + point["step"])
                    ys.append(value)
        offset += max((point["step"] for point in done["curve"]), default=0)
    for name, (xs, ys) in series.items():
        axes.plot(xs, ys, lw=1.2, label=name)
    axes.set(xlabel="optimiser step", ylabel="weighted loss")
    axes.legend(fontsize=7, frameon=False, ncols=3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.2)
    return figure


def _short(layer: str) -> str:
    parts = layer.split(".")
    return (
        parts[-1] if parts[0] == "projector" else f"{'block' if 'vision' in layer else 'layer'} {parts[-1]}"
    )
