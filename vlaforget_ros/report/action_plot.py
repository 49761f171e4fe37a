"""Actions of an episode over time, a panel for each kind of number, violations as vertical lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from vlaforget_ros.report.fitting import fit

PANEL = 150
"""Height of a panel with its axis [px]."""
TOP = 44
"""Room for the names of the rules above the first panel [px]."""

_NAMES = {
    4: ("dx", "dy", "dz", "gripper"),
    7: ("dx", "dy", "dz", "droll", "dpitch", "dyaw", "gripper"),
}
_KINDS = (
    ("translation\n[m per tick]", ("dx", "dy", "dz", "x", "y", "z")),
    ("rotation\n[rad per tick]", ("droll", "dpitch", "dyaw", "roll", "pitch", "yaw")),
)
_COLOURS = ("#1f77b4", "#e08214", "#238b45", "#7b3fa0", "#8c564b", "#17a2b8", "#bc80bd", "#6b7b00")
_RED = "#d62020"
_LABEL_SHARE = 0.2


@dataclass(frozen=True)
class Panel:
    """Some numbers of an action that share an axis."""

    label: str
    columns: tuple[int, ...]
    names: tuple[str, ...]


def panels(size: int, names: Sequence[str] = ()) -> list[Panel]:
    """How the numbers of an action are put into panels: translation, rotation, others, gripper.

    Args:
        size: how many numbers an action has.
        names: theirs; those of this package's interfaces when there are none, and 4 or 7 numbers.
    """
    if len(names) != size:
        names = _NAMES.get(size, tuple(f"a{number}" for number in range(size)))
    found = []
    left = list(range(size))
    for label, members in _KINDS:
        columns = tuple(i for i in left if names[i] in members)
        if columns:
            found.append(Panel(label, columns, tuple(names[i] for i in columns)))
            left = [i for i in left if i not in columns]
    for is_gripper, label in ((False, "action\n[robot units]"), (True, "gripper\n[robot units]")):
        columns = tuple(i for i in left if ("gripper" in names[i]) == is_gripper)
        if columns:
            found.append(Panel(label, columns, tuple(names[i] for i in columns)))
    return found


def plot_actions(
    axes: Sequence[Axes],
    groups: Sequence[Panel],
    seconds: np.ndarray,
    actions: np.ndarray,
    violations: Sequence[tuple[str, float]],
    shown: np.ndarray,
    gap: float,
) -> None:
    """Fill the panels.

    Args:
        axes: one for each of ``groups``, from top to bottom.
        groups: see :func:`panels`.
        seconds: (T,) since the first frame.
        actions: (T, A).
        violations: rule and time [s] of each.
        shown: (K,) indices of the frames shown above, to be marked on the time axis.
        gap: steps longer than this many usual ones are shaded.
    """
    usual = float(np.median(np.diff(seconds))) if len(seconds) > 1 else 0.1
    end = float(seconds[-1]) + usual
    low = min([0.0, *(when for _, when in violations)])
    high = max([end, *(when for _, when in violations)])
    for place, (panel, group) in enumerate(zip(axes, groups, strict=True)):
        for number, (column, name) in enumerate(zip(group.columns, group.names, strict=True)):
            held = np.append(actions[:, column], actions[-1, column])
            panel.step(
                np.append(seconds, end),
                held,
                where="post",
                # Values at a limit coincide: the lower line stays visible beside the upper one.
                lw=max(1.1, 2.3 - 0.6 * number),
                color=_COLOURS[number % len(_COLOURS)],
                label=name,
            )
        for at in np.flatnonzero(np.diff(seconds) > gap * usual):
            panel.axvspan(seconds[at] + usual, seconds[at + 1], color="#f2cc60", alpha=0.6, lw=0)
        for _, when in violations:
            panel.axvline(when, color=_RED, lw=1.4, ls=(0, (4, 2)))
        _dress(panel, group, (low, high), last=place == len(groups) - 1)
    _name(axes[0], violations, low, high)
    if np.any(np.diff(seconds) > gap * usual):
        axes[-1].set_xlabel(f"{axes[-1].get_xlabel()}   (yellow: no frames)")
    transform = axes[-1].get_xaxis_transform()
    axes[-1].plot(
        seconds[shown], np.zeros(len(shown)), "^", ms=5, color="#444444", transform=transform, clip_on=False
    )


def _dress(axes: Axes, group: Panel, limits: tuple[float, float], last: bool) -> None:
    margin = 0.01 * (limits[1] - limits[0])
    axes.set_xlim(limits[0] - margin, limits[1] + margin)
    axes.set_ylabel(group.label, fontsize=8.5)
    axes.tick_params(labelsize=8, labelbottom=last)
    axes.yaxis.set_label_coords(-0.062, 0.5)
    _spread(axes)
    axes.locator_params(axis="y", nbins=5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    axes.legend(loc="upper left", bbox_to_anchor=(1.005, 1.0), fontsize=8.5, frameon=False, borderaxespad=0.0)
    if last:
        axes.set_xlabel("time since the first frame [s]   (triangles: the frames above)", fontsize=8.5)


def _spread(axes: Axes) -> None:
    """A constant is a line in the middle of a sensible axis, not of one magnified until noise shows."""
    low, high = axes.dataLim.intervaly
    if high - low < 1e-6:
        low, high = (min(low, 0.0), max(high, 1.0)) if 0.0 <= low <= 1.0 else (low - 0.5, high + 0.5)
    axes.set_ylim(low - 0.12 * (high - low), high + 0.12 * (high - low))


def _name(axes: Axes, violations: Sequence[tuple[str, float]], low: float, high: float) -> None:
    """Write the rules above the first panel, each as far as the next one or the end."""
    labels = _labels(violations, high - low)
    pixels = axes.get_window_extent().width / (high - low)
    for number, (text, when) in enumerate(labels):
        until = labels[number + 1][1] if number + 1 < len(labels) else high
        right = number + 1 == len(labels) and when - low > 0.75 * (high - low)
        label = axes.annotate(
            text,
            (when, 1.0),
            (3 if right else -3, 4),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            fontsize=8.5,
            weight="bold",
            color=_RED,
            ha="right" if right else "left",
            parse_math=False,
        )
        fit(
            label,
            _LABEL_SHARE * (high - low) * pixels
            if right
            else (until - when) * pixels + 100 * (until == high),
        )


def _labels(violations: Sequence[tuple[str, float]], span: float) -> list[tuple[str, float]]:
    """Names of the rules where they do not overlap: close violations share the place of the first."""
    groups: list[tuple[list[str], float]] = []
    for rule, when in sorted(violations, key=lambda violation: violation[1]):
        if groups and when - groups[-1][1] < _LABEL_SHARE * span:
            groups[-1][0].append(rule)
        else:
            groups.append(([rule], when))
    found = []
    for rules, when in groups:
        names = list(dict.fromkeys(rules))
        more = f" +{len(rules) - 1}" if len(rules) > 1 else ""
        found.append((names[0] + more, when))
    return found
