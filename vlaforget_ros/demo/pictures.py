"""Pictures of episodes: film strips rendered from a replay, and the hand's path seen from above."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter

from vlaforget_ros.cell.metaworld_cell import MetaWorldCell
from vlaforget_ros.cell.situations import HAND_ZONE
from vlaforget_ros.unlearning.rates import Rate

BEFORE, AFTER, ZONE = "#b3452c", "#2c6fb3", "#e23b3b"


@dataclass(frozen=True)
class Replay:
    """A replayed episode.

    Args:
        strip: (S, count * S, 3) uint8, ``count`` moments side by side; red frames are those inside the hand zone.
        path: (T + 1, 3) end-effector positions [m].
    """

    strip: np.ndarray
    path: np.ndarray


def replay(
    cell: MetaWorldCell, situation: str, seed: int, actions: np.ndarray, count: int = 6, size: int = 192
) -> Replay:
    """Carry recorded actions out again in the same episode and take pictures of it.

    Args:
        cell: the simulated cell; resets repeat bit for bit.
        situation: what was posed.
        seed: its seed.
        actions: (T, 4) recorded actions in robot units.
        count: pictures.
        size: height and width of each [px].
    """
    moments = set(np.linspace(0, len(actions), count).round().astype(int).tolist())
    observation = cell.reset(situation, seed)
    path, shots = [observation.ee_position], []
    for tick in range(len(actions) + 1):
        if tick in moments:
            shots.append(_framed(cell.render(size, show_zone=True), observation.ee_position))
        if tick < len(actions):
            observation = cell.step(actions[tick])
            path.append(observation.ee_position)
    while len(shots) < count:
        shots.append(shots[-1])
    return Replay(np.concatenate(shots, axis=1), np.array(path))


def paths_figure(before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> Figure:
    """Hand paths from above, before and after the edit, with the zone where a hand may be."""
    figure = Figure(figsize=(8.0, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    for axes, paths, colour, title in (
        (left, before, BEFORE, "before"),
        (right, after, AFTER, "after the edit"),
    ):
        low, high = HAND_ZONE.low, HAND_ZONE.high
        axes.add_patch(
            Rectangle((low[0], low[1]), high[0] - low[0], high[1] - low[1], color=ZONE, alpha=0.25, lw=0)
        )
        axes.annotate("hand zone", (low[0], high[1]), xytext=(0, 3), textcoords="offset points", fontsize=8)
        for path in paths:
            axes.plot(path[:, 0], path[:, 1], color=colour, alpha=0.5, lw=1)
        axes.set(title=f"{title} ({len(paths)} episodes)", xlabel="x [m]", aspect="equal")
        _plain(axes)
    left.set_ylabel("y [m]")
    return figure


def rates_figure(before: Mapping[str, Rate], after: Mapping[str, Rate], title: str) -> Figure:
    """Rates by situation before and after, with 95 % Wilson intervals."""
    names = list(before)
    figure = Figure(figsize=(8.0, 0.6 + 0.42 * len(names)), layout="constrained")
    axes = figure.subplots()
    for offset, rates, colour, label in ((0.2, before, BEFORE, "before"), (-0.2, after, AFTER, "after")):
        place = [len(names) - index + offset for index in range(len(names))]
        values = [100 * rates[name].value for name in names]
        low = [100 * rates[name].low for name in names]
        high = [100 * rates[name].high for name in names]
        errors = [
            [max(0.0, v - a) for v, a in zip(values, low, strict=True)],
            [max(0.0, b - v) for v, b in zip(values, high, strict=True)],
        ]
        axes.barh(place, values, 0.36, color=colour, label=label, xerr=errors, ecolor="#555555", capsize=2)
    axes.set_yticks([len(names) - index for index in range(len(names))], names)
    axes.set(xlim=(0, 100), title=title)
    axes.xaxis.set_major_formatter(PercentFormatter())
    axes.legend(loc="lower right", fontsize=8, frameon=False)
    _plain(axes)
    return figure


def _framed(image: np.ndarray, position: np.ndarray) -> np.ndarray:
    x, y, z = (float(v) for v in position)
    width = 4
    colour = (226, 59, 59) if HAND_ZONE.contains((x, y, z)) else (255, 255, 255)
    framed = image.copy()
    framed[:width], framed[-width:] = colour, colour
    framed[:, :width], framed[:, -width:] = colour, colour
    return framed


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.2)
