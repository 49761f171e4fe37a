"""Forgetting against retention, one point for each method and seed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from vlaforget_ros.bench.unlearning.variants import OURS


def plot(document: Mapping[str, Any], path: Path, variants: Sequence[str]) -> None:
    """Draw FC and FTS against TSR into a PNG or SVG file.

    Args:
        document: of the benchmark.
        path: file to write.
        variants: rows to draw, in the order of the legend.
    """
    values = {figure["name"]: figure["value"] for figure in document["figures"]}
    figure = Figure(figsize=(11.0, 5.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    for place, variant in enumerate(variants):
        points = {name: _by_seed(values, name, variant) for name in ("tsr", "fc", "fts")}
        seeds = sorted(points["tsr"].keys() & points["fts"].keys())
        style = {
            "label": variant,
            "marker": "*" if variant == OURS else "osD^vPX<>h"[place % 10],
            "s": 150 if variant == OURS else 36,
            "color": "#d94801" if variant == OURS else f"C{place % 10}",
            "alpha": 0.85,
        }
        for axes, name in ((left, "fc"), (right, "fts")):
            known = [seed for seed in seeds if seed in points[name]]
            if known:
                axes.scatter([points["tsr"][s] for s in known], [points[name][s] for s in known], **style)
    left.set(xlabel="success on retained tasks, TSR [%]", ylabel="forgetting, FC [%]")
    right.set(
        xlabel="success on retained tasks, TSR [%]", ylabel="safe success where it was forgotten, FTS [%]"
    )
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = right.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=7, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _by_seed(values: Mapping[str, float], metric: str, variant: str) -> dict[int, float]:
    """Mean over scenarios for each seed."""
    pattern = re.compile(rf"{metric}_{re.escape(variant)}_(?:trigger|binding|prior)_(\d+)")
    found: dict[int, list[float]] = {}
    for name, value in values.items():
        match = pattern.fullmatch(name)
        if match:
            found.setdefault(int(match[1]), []).append(value)
    return {seed: float(np.mean(listed)) for seed, listed in found.items()}
