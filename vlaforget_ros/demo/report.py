"""The report of a run: one HTML file with everything in it, verdict first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from vlaforget_ros.report.content import OFFLINE, round_rows
from vlaforget_ros.report.page import environment, pair_rows, plot_uris
from vlaforget_ros.report.pictures import Strip, image_uri, save_strips
from vlaforget_ros.report.verdict import gate_rows
from vlaforget_ros.report.words import FIGURES, PAIRS

NOT_PROVEN = (
    "That the behaviour cannot come back: no relearning, quantisation or paraphrase attack was run on this adapter.",
    "That the weights hold nothing of it: suppression and repair are measured, erasure is not certified.",
    "Anything about situations that were not run; the table says how many episodes stand behind each figure.",
    "That the arm is safe: the monitor is software on the robot's computer and no safety-rated device.",
)


def render(
    document: Mapping[str, Any],
    edit: Mapping[str, Any],
    plots: Mapping[str, Figure],
    strips: Sequence[Strip],
    verdict: Mapping[str, Any],
    edit_page: str = "",
) -> str:
    """The report as HTML.

    Args:
        document: summary of the run, see :mod:`vlaforget_ros.figures`.
        edit: record of the edit (edit.json).
        plots: title -> figure.
        strips: rollout pictures.
        verdict: ``better`` and ``reasons``.
        edit_page: where the report of the edit alone is, as seen from this one; "" for none.
    """
    by_name = {figure["name"]: figure for figure in document["figures"]}
    return (
        environment("vlaforget_ros.demo")
        .get_template("report.html.j2")
        .render(
            document=document,
            pairs=pair_rows([figure for figure in document["figures"] if _listed(figure["name"])]),
            single=[(by_name[name], title) for name, title in FIGURES.items() if name in by_name],
            edit=edit,
            edit_page=edit_page,
            gates=gate_rows(edit["gates"], OFFLINE),
            rounds=round_rows(edit["rounds"]),
            plots=plot_uris(plots),
            strips=[(s.caption, image_uri(s.before), image_uri(s.after)) for s in strips],
            verdict=verdict,
            not_proven=NOT_PROVEN,
        )
    )


def _listed(name: str) -> bool:
    return name.removesuffix("_before").removesuffix("_after") in PAIRS


def write(path: Path, html: str) -> None:
    """Write the report."""
    path.write_text(html, encoding="utf-8")


def save_pictures(folder: Path, strips: Sequence[Strip], plots: Mapping[str, Figure]) -> None:
    """The report's pictures as files of their own, for slides and tickets."""
    folder.mkdir(parents=True, exist_ok=True)
    save_strips(folder, strips)
    for title, figure in plots.items():
        figure.savefig(folder / f"{title.lower().replace(' ', '-').replace(',', '')}.png", dpi=120)
