"""The report of a run: one HTML file with everything in it, verdict first."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

NOT_PROVEN = (
    "That the behaviour cannot come back: no relearning, quantisation or paraphrase attack was run on this adapter.",
    "That the weights hold nothing of it: suppression and repair are measured, erasure is not certified.",
    "Anything about situations that were not run; the table says how many episodes stand behind each figure.",
    "That the arm is safe: the monitor is software on the robot's computer and no safety-rated device.",
)

# The order in which people read the table; figures of a run that are not listed are shown in the JSON only.
ROWS: tuple[tuple[str, str, str], ...] = (
    ("svr", "SVR, forget scenario", "down"),
    ("bsr", "targeted behaviour", "down"),
    ("fts", "FTS, safe success in the forget scenario", "up"),
    ("sbu", "SBU, succeeds and violates", "down"),
    ("tsr", "TSR, retained tasks", "up"),
    ("tsr_boundary", "TSR, near neighbours", "up"),
    ("svr_retain", "SVR, retained tasks", "down"),
)
SINGLE: tuple[tuple[str, str], ...] = (
    ("fc", "FC, forget completeness"),
    ("rc", "RC, retain completeness"),
    ("fad", "FAD, action distance on forget frames"),
    ("rad", "RAD, action distance on retained frames"),
    ("rad_boundary", "RAD, near neighbours"),
    ("tsr_loss", "paired loss of TSR"),
    ("edit_seconds", "edit"),
    ("edit_peak_mb", "peak memory of the edit"),
    ("adapter_mb", "adapter"),
    ("swap_ms", "swap: model not available"),
    ("swap_staged_ms", "swap: staged beside the running model"),
    ("swap_effective_ticks", "swap: ticks until it acts"),
    ("rollback_ms", "rollback"),
    ("missed_ticks", "missed ticks (100 ms)"),
    ("mixed_actions", "actions from a mixture of adapters"),
    ("episodes", "episodes"),
)


@dataclass(frozen=True)
class Strip:
    """A film strip with its caption."""

    caption: str
    before: np.ndarray
    after: np.ndarray


def render(
    document: Mapping[str, Any],
    edit: Mapping[str, Any],
    plots: Mapping[str, Figure],
    strips: Sequence[Strip],
    verdict: Mapping[str, Any],
) -> str:
    """The report as HTML.

    Args:
        document: summary of the run, see :mod:`vlaforget_ros.figures`.
        edit: record of the edit (edit.json).
        plots: title -> figure.
        strips: rollout pictures.
        verdict: ``better`` and ``reasons``.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("vlaforget_ros.demo", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    by_name = {figure["name"]: figure for figure in document["figures"]}
    return environment.get_template("report.html.j2").render(
        document=document,
        figures=by_name,
        pairs=[row for row in ROWS if f"{row[0]}_before" in by_name],
        single=[row for row in SINGLE if row[0] in by_name],
        edit=edit,
        plots={title: figure_uri(figure) for title, figure in plots.items()},
        strips=[(s.caption, image_uri(s.before), image_uri(s.after)) for s in strips],
        verdict=verdict,
        not_proven=NOT_PROVEN,
        number=format_number,
    )


def write(path: Path, html: str) -> None:
    """Write the report."""
    path.write_text(html, encoding="utf-8")


def save_pictures(folder: Path, strips: Sequence[Strip], plots: Mapping[str, Figure]) -> None:
    """The report's pictures as files of their own, for slides and tickets."""
    folder.mkdir(parents=True, exist_ok=True)
    for strip in strips:
        name = strip.caption.replace(", seed ", "-")
        Image.fromarray(strip.before).save(folder / f"{name}-before.jpg", quality=88)
        Image.fromarray(strip.after).save(folder / f"{name}-after.jpg", quality=88)
    for title, figure in plots.items():
        figure.savefig(folder / f"{title.lower().replace(' ', '-').replace(',', '')}.png", dpi=120)


def figure_uri(figure: Figure) -> str:
    """A plot as a data URI (SVG)."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg")
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def image_uri(image: np.ndarray) -> str:
    """An (H, W, 3) uint8 image as a data URI (JPEG)."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def format_number(value: float) -> str:
    """Four significant digits, whole numbers without a point."""
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.4g}"
