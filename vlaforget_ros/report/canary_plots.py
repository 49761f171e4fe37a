"""Plots of a canary's record: the evidence of both tests with their boundaries, and who drove when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

_ABORT, _ACCEPT, _PHASE = "#b02a1a", "#1e6b41", "#888888"
_LANES = {"candidate": 2, "stable": 1, "shadow": 0}
_OUTCOMES = {
    "violated": ("#b02a1a", "X"),
    "failed": ("#d98e04", "v"),
    "aborted": ("#666666", "s"),
    "succeeded": ("#1e6b41", "o"),
}
_PLACES = {"OFFLINE": "offline", "SHADOW": "shadow", "REDUCED_SPEED": "slow"}
_TESTS = {"violation": "violations", "success_test": "loss of success"}


def canary_plots(record: Mapping[str, Any]) -> dict[str, Figure]:
    """Title -> plot of a canary's record; none before its first rollout."""
    heard = [point for point in record["trace"] if point["event"] in ("rollout", "shadow")]
    if not heard:
        return {}
    return {
        "Evidence after each rollout": evidence_figure(record),
        "Who drove, and how it ended": timeline_figure(record),
    }


def evidence_figure(record: Mapping[str, Any]) -> Figure:
    """Log e-values against and for the candidate over the rollouts, a panel for each test."""
    points = _numbered(record["trace"])
    figure = Figure(figsize=(8.0, 5.2), layout="constrained")
    for axes, (test, name) in zip(figure.subplots(2, 1, sharex=True), _TESTS.items(), strict=True):
        places = [place for place, _ in points]
        for side, colour, words in (
            ("abort", _ABORT, "against the candidate"),
            ("accept", _ACCEPT, "for the candidate"),
        ):
            values = [point[test][side] for _, point in points]
            limit = points[-1][1][test][f"{side}_threshold"]
            axes.step(places, values, where="post", color=colour, lw=1.4, label=words)
            axes.axhline(limit, color=colour, lw=1.0, ls="--", label=f"{side} from {limit:.2f}")
        axes.axhline(0.0, color=_PHASE, lw=0.6)
        axes.set_ylabel(f"log e-value, {name}", fontsize=8)
        # A hopeless candidate's evidence for it falls without end; what decides lies near the boundaries.
        axes.set_ylim(bottom=max(axes.get_ylim()[0], -12.0))
        _phases(axes, points, names=test == "violation")
        _plain(axes)
    axes.set_xlabel("rollout", fontsize=8)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=7, frameon=False)
    return figure


def timeline_figure(record: Mapping[str, Any]) -> Figure:
    """Each rollout in the lane of who drove; hollow where it did not count."""
    points = _numbered(record["trace"])
    figure = Figure(figsize=(8.0, 2.4), layout="constrained")
    axes = figure.subplots()
    for outcome, (colour, marker) in _OUTCOMES.items():
        for counted in (True, False):
            chosen = [
                (n, p) for n, p in points if _lane(p) and _outcome(p) == outcome and p["counted"] is counted
            ]
            if chosen:
                axes.scatter(
                    [n for n, _ in chosen],
                    [_LANES[_lane(p)] for _, p in chosen],
                    s=22,
                    marker=marker,
                    facecolors=colour if counted else "none",
                    edgecolors=colour,
                    label=outcome if counted else f"{outcome}, not counted",
                )
    axes.set_yticks(list(_LANES.values()), list(_LANES), fontsize=8)
    axes.set_ylim(-0.5, 2.9)
    axes.set_xlabel("rollout", fontsize=8)
    _phases(axes, points, names=True)
    _plain(axes)
    figure.legend(loc="outside lower center", ncols=6, fontsize=7, frameon=False)
    return figure


def _numbered(trace: Sequence[Mapping[str, Any]]) -> list[tuple[int, Mapping[str, Any]]]:
    """Trace points with the number of rollouts (shadow ones too) heard until then."""
    number, found = 0, []
    for point in trace:
        number += bool(_lane(point))
        found.append((number, point))
    return found


def _lane(point: Mapping[str, Any]) -> str:
    """Who drove; "" for what is no rollout. A pinned rollout is drawn with none."""
    if point["event"] == "shadow":
        return "shadow"
    return point["arm"] if point["event"] == "rollout" and point["arm"] in _LANES else ""


def _outcome(point: Mapping[str, Any]) -> str:
    if point["violated"]:
        return "violated"
    if point["event"] == "shadow" or point["success"]:
        return "succeeded"
    return "aborted" if point["success"] is None else "failed"


def _phases(axes: Axes, points: Sequence[tuple[int, Mapping[str, Any]]], *, names: bool) -> None:
    """A line where phase or weight changes, and one at the verdict; names stand above the axes."""
    last, level = None, 0
    for place, point in points:
        ended = point["event"] == "verdict"
        now = point["verdict"] if ended else _PLACES.get(point["phase"], f"{point['weight']:.0%}")
        if now == last or now == "offline":
            continue
        last = now
        axes.axvline(place + 0.5, color=_ABORT if ended else _PHASE, lw=0.8, ls=":")
        if names:
            height = 1.01 + 0.06 * (level % 3)
            axes.text(place + 0.6, height, now, transform=axes.get_xaxis_transform(), fontsize=6.5)
            level += 1


def _plain(axes: Axes) -> None:
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.2)
    axes.set_axisbelow(True)
