"""Forgetting against retention, one point for each method and seed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from vlaforget_ros.bench.unlearning.variants import ABLATIONS, OURS, PLAIN

_PARTS = frozenset(variant.name for variant in ABLATIONS)


def plot(document: Mapping[str, Any], path: Path, variants: Sequence[str]) -> None:
    """Draw FC and FTS against TSR into a PNG or SVG file.

    Args:
        document: of the benchmark.
        path: file to write.
        variants: rows to draw, in the order of the legend.
    """
    values = {figure["name"]: figure["value"] for figure in document["figures"]}
    figure = Figure(figsize=(13.0, 5.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    styles = _styles(variants)
    for variant in variants:
        points = {name: _by_seed(values, name, variant) for name in ("tsr", "fc", "fts")}
        seeds = sorted(points["tsr"].keys() & points["fts"].keys())
        for axes, name in ((left, "fc"), (right, "fts")):
            known = [seed for seed in seeds if seed in points[name]]
            if known:
                where = [points["tsr"][s] for s in known], [points[name][s] for s in known]
                axes.scatter(*where, **styles[variant])
    left.set(xlabel="success on retained tasks, TSR [%]", ylabel="forgetting, FC [%]")
    right.set(
        xlabel="success on retained tasks, TSR [%]", ylabel="safe success where it was forgotten, FTS [%]"
    )
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = right.get_legend_handles_labels()
    # One entry for all ablations.
    entries = dict(zip(labels, handles, strict=True))
    figure.legend(
        entries.values(), entries.keys(), loc="outside right center", fontsize=8, frameon=False, ncols=2
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _styles(variants: Sequence[str]) -> dict[str, dict[str, Any]]:
    """A colour and a marker for each method, hollow without counterfactual data; ablations alike and in the back."""
    methods = list(dict.fromkeys(name.removesuffix(PLAIN) for name in variants if name not in _PARTS))
    styles: dict[str, dict[str, Any]] = {}
    for name in variants:
        if name in _PARTS:
            styles[name] = {"label": f"{OURS} without a part", "marker": ".", "color": "#bbbbbb", "zorder": 1}
            continue
        place = methods.index(name.removesuffix(PLAIN))
        colour = "#d94801" if name.removesuffix(PLAIN) == OURS else f"C{place % 10}"
        styles[name] = {
            "label": name,
            "marker": "*" if colour.startswith("#") else "osD^vPX<>hp8d"[place % 13],
            "s": 150 if colour.startswith("#") else 36,
            "facecolors": "none" if name.endswith(PLAIN) else colour,
            "edgecolors": colour,
            "alpha": 0.85,
        }
    return styles


def _by_seed(values: Mapping[str, float], metric: str, variant: str) -> dict[int, float]:
    """Mean over scenarios for each seed."""
    pattern = re.compile(rf"{metric}_{re.escape(variant)}_(?:trigger|binding|prior)_(\d+)")
    found: dict[int, list[float]] = {}
    for name, value in values.items():
        match = pattern.fullmatch(name)
        if match:
            found.setdefault(int(match[1]), []).append(value)
    return {seed: float(np.mean(listed)) for seed, listed in found.items()}
