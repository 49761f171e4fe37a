"""One episode on one page: frames side by side, those of violations marked, and below them what the policy did."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from vlaforget_ros.episodes.catalogue.cadence import GAP, cadence, moment
from vlaforget_ros.episodes.catalogue.glimpse import Glimpse
from vlaforget_ros.episodes.types import NANOSECONDS, EpisodeInfo, Phase, Problem
from vlaforget_ros.report.action_plot import PANEL, TOP, panels, plot_actions
from vlaforget_ros.report.fitting import fit

WIDTH = 1200
"""Of the page [px]."""
RED = "#d62020"
MOST = 96
"""Frames on one page; of more violations than that only some are shown, and the page says so."""

_DPI = 100
_MARGIN = 24
_CAPTION = 38
_SPACE = 10
_COLOURS = {Phase.SUCCEEDED: "#1a7f37", Phase.FAILED: RED}
_LINE = 22
_SMALL = 150


@dataclass(frozen=True)
class Shown:
    """Which frames a page shows.

    Attributes:
        indices: (K,) increasing frame indices.
        rules: frame index -> rules broken there, for the frames of violations that are shown.
        hidden: frames of violations that found no place.
    """

    indices: np.ndarray
    rules: dict[int, list[str]]
    hidden: int = 0


def choose(episode: EpisodeInfo, count: int, most: int = MOST) -> Shown:
    """Frames evenly over the episode, every frame of a violation among them.

    A violation is shown by the frame whose stamp is nearest to its own.

    Args:
        episode: with at least one frame.
        count: how many frames; more where there are more frames of violations, up to ``most``.
        most: see there.
    """
    broken: dict[int, list[str]] = {}
    for violation in episode.violations:
        nearest = int(np.argmin(np.abs(episode.stamps_ns - violation.stamp_ns)))
        rules = broken.setdefault(nearest, [])
        if violation.rule not in rules:
            rules.append(violation.rule)
    marked = _evenly(sorted(broken), most)
    chosen = _evenly(range(len(episode)), min(max(count, 1), most))
    for frame in marked:
        free = [index for index in chosen if index not in marked]
        if frame not in chosen:
            if free and len(chosen) >= count:
                chosen.remove(min(free, key=lambda index: abs(index - frame)))
            chosen.append(frame)
    kept = {frame: broken[frame] for frame in marked}
    return Shown(np.array(sorted(chosen), dtype=np.int64), kept, len(broken) - len(kept))


def contact_sheet(
    seen: Glimpse,
    *,
    columns: int = 6,
    problems: Sequence[Problem] = (),
    names: Sequence[str] = (),
) -> Image.Image:
    """The page of an episode.

    Args:
        seen: the episode and the frames to show, see :func:`choose`.
        columns: frames in a row.
        problems: what is odd about it, for the header.
        names: of the action's numbers; guessed from how many there are when empty.

    Returns:
        RGB, :data:`WIDTH` pixels wide.
    """
    episode, images = seen.info, seen.images
    shown = choose(episode, len(seen.indices))
    columns = min(columns, max(4, len(images)))
    wide = (WIDTH - 2 * _MARGIN - (columns - 1) * _SPACE) // columns
    high = max(1, round(wide * images.shape[1] / images.shape[2]))
    facts = _facts(seen, shown, problems)
    groups = panels(seen.actions.shape[1], names)
    rows = -(-len(images) // columns)
    head = _MARGIN + 38 + _LINE * len(facts) + 8
    tall = head + rows * (high + _CAPTION + _SPACE) + TOP + PANEL * len(groups) + 60
    figure = Figure(figsize=(WIDTH / _DPI, tall / _DPI), dpi=_DPI, facecolor="white")

    def place(x: float, y: float, width: float, height: float) -> Axes:
        return figure.add_axes((x / WIDTH, 1 - (y + height) / tall, width / WIDTH, height / tall))

    _header(place(0, 0, WIDTH, head), episode, facts, head)
    for number, index in enumerate(seen.indices):
        row, column = divmod(number, columns)
        x = _MARGIN + column * (wide + _SPACE)
        y = head + row * (high + _CAPTION + _SPACE) + _CAPTION
        rules = shown.rules.get(int(index), [])
        _tile(place(x, y, wide, high), images[number], _seconds(episode)[index], int(index), rules)
    top = head + rows * (high + _CAPTION + _SPACE) + TOP
    axes = [
        place(_MARGIN + 76, top + PANEL * n, WIDTH - 2 * _MARGIN - 206, PANEL - 26)
        for n in range(len(groups))
    ]
    when = [(v.rule, (v.stamp_ns - int(episode.stamps_ns[0])) / NANOSECONDS) for v in episode.violations]
    plot_actions(axes, groups, _seconds(episode), seen.actions, when, seen.indices, GAP)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    return Image.open(buffer).convert("RGB")


def save_sheet(page: Image.Image, path: Path) -> None:
    """Write the page as PNG: the folder is made, a page of before is replaced at once. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    page.save(temporary, format="PNG", optimize=True)
    temporary.replace(path)


def _evenly(values: Sequence[int], count: int) -> list[int]:
    if len(values) <= count:
        return list(values)
    return [values[int(i)] for i in np.linspace(0, len(values) - 1, count).round()]


def _seconds(episode: EpisodeInfo) -> np.ndarray:
    return (episode.stamps_ns - episode.stamps_ns[0]) / NANOSECONDS


def _facts(seen: Glimpse, shown: Shown, problems: Sequence[Problem]) -> list[tuple[str, str]]:
    """Lines of the header with their colours."""
    episode = seen.info
    start = int(episode.stamps_ns[0])
    rate = cadence(episode.stamps_ns)
    high, wide = seen.images.shape[1:3]
    lines = [
        (
            f"rollout {episode.rollout_id}   adapter {episode.adapter_digest[:12] or 'base'}"
            f"   bag {episode.source}",
            "#444444",
        ),
        (
            f"{len(episode)} frame{'s' if len(episode) > 1 else ''} in {episode.seconds:.1f} s, {rate.median_hz:.1f} Hz"
            f" ({rate.min_hz:.1f} to {rate.max_hz:.1f}), {wide} x {high} px,"
            f" {episode.dropped_frames} frames left out, first frame at {moment(start)}",
            "#444444",
        ),
    ]
    for violation in episode.violations[:3]:
        unit = f" {violation.unit}" if violation.unit else ""
        lines.append(
            (
                f"{violation.rule} ({violation.severity}) at {(violation.stamp_ns - start) / NANOSECONDS:.1f} s:"
                f" {violation.value:.3g}{unit}, limit {violation.limit:.3g}{unit}"
                f"{'; ' + violation.message if violation.message else ''}",
                RED,
            )
        )
    if len(episode.violations) > 3:
        lines.append((f"and {len(episode.violations) - 3} more violations", RED))
    if shown.hidden:
        lines.append((f"{shown.hidden} frames of violations are not shown: there are too many", RED))
    odd = [f"{rate.gaps} gaps, about {rate.missing} frames missing"] if rate.gaps else []
    odd += [problem.message for problem in problems]
    if odd:
        lines.append((f"health: {'; '.join(odd)}", "#9a6700"))
    return lines


def _header(axes: Axes, episode: EpisodeInfo, facts: Sequence[tuple[str, str]], head: int) -> None:
    axes.set_axis_off()
    axes.set_xlim(0, WIDTH)
    axes.set_ylim(head, 0)
    title: dict[str, Any] = {"fontsize": 16, "weight": "bold", "va": "center", "parse_math": False}
    fit(axes.text(_MARGIN, _MARGIN + 14, episode.instruction, **title), WIDTH - 2 * _MARGIN - 280)
    end = Phase(episode.phase)
    agreed = {Phase.SUCCEEDED: True, Phase.FAILED: False}.get(end) == episode.success
    said = {True: "outcome: success", False: "outcome: failure", None: "no outcome"}[episode.success]
    axes.text(
        WIDTH - _MARGIN,
        _MARGIN + 14,
        end.lower() if agreed and episode.success is not None else f"{end.lower()}, {said}",
        fontsize=12,
        weight="bold",
        color="white",
        ha="right",
        va="center",
        bbox={"boxstyle": "round,pad=0.4", "facecolor": _COLOURS.get(end, "#666666"), "edgecolor": "none"},
    )
    for number, (text, shade) in enumerate(facts):
        y = _MARGIN + 38 + _LINE * number + _LINE / 2
        line = axes.text(_MARGIN, y, text, fontsize=9.5, color=shade, va="center", parse_math=False)
        fit(line, WIDTH - 2 * _MARGIN)


def _tile(axes: Axes, image: np.ndarray, seconds: float, index: int, rules: Sequence[str]) -> None:
    # Pixels of a small image stay pixels: nothing is shown that the policy did not see.
    small = image.shape[1] < _SMALL
    axes.imshow(image, interpolation="nearest" if small else "lanczos", aspect="auto")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set(color=RED if rules else "#bbbbbb", linewidth=4 if rules else 0.8)
    caption: dict[str, Any] = {
        "xycoords": "axes fraction",
        "textcoords": "offset points",
        "parse_math": False,
    }
    time = f"{seconds:.1f} s   frame {index}"
    axes.annotate(time, (0, 1), (0, 16 if rules else 4), fontsize=8.5, color="#444444", **caption)
    if rules:
        more = f" +{len(rules) - 1}" if len(rules) > 1 else ""
        text = rules[0] + more
        style: dict[str, Any] = {"fontsize": 8.5, "weight": "bold", "color": RED}
        fit(axes.annotate(text, (0, 1), (0, 5), **style, **caption), axes.get_window_extent().width)
