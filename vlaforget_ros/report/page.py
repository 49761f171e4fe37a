"""The page: the content of a report as one HTML file that needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
import yaml
from matplotlib.figure import Figure

from vlaforget_ros.report.content import build
from vlaforget_ros.report.material import Material, read_material
from vlaforget_ros.report.pictures import figure_uri, image_uri
from vlaforget_ros.report.plots import edit_plots
from vlaforget_ros.report.words import FIGURES, PAIRS, UP, interval, number, show

PAGE, DOCUMENT = "report.html", "report.json"


def environment(package: str = "") -> jinja2.Environment:
    """Where templates come from: those of a package, on top of the layout and the sections that all reports share.

    Args:
        package: with a folder ``templates``; "" for none.
    """
    packages = [*([package] if package else []), "vlaforget_ros.report"]
    made = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(name, "templates") for name in packages]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    made.globals.update(number=number, show=show, interval=interval, titles=FIGURES)
    return made


def plot_uris(plots: Mapping[str, Figure]) -> dict[str, str]:
    """Title -> plot as a data URI."""
    return {title: figure_uri(figure) for title, figure in plots.items()}


def pair_rows(figures: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Figures that were measured before and after, known ones first and with their names."""
    by_name = {figure["name"]: figure for figure in figures}
    stems = [name.removesuffix("_before") for name in by_name if name.endswith("_before")]
    both = [stem for stem in stems if f"{stem}_after" in by_name]
    ordered = sorted(both, key=lambda stem: list(PAIRS).index(stem) if stem in PAIRS else len(PAIRS))
    return [
        {
            "name": stem,
            "title": PAIRS.get(stem, stem),
            "before": by_name[f"{stem}_before"],
            "after": by_name[f"{stem}_after"],
            "better": "" if stem not in PAIRS else "up" if stem in UP else "down",
        }
        for stem in ordered
    ]


def single_rows(figures: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """All other figures."""
    paired = {f"{row['name']}_{when}" for row in pair_rows(figures) for when in ("before", "after")}
    return [figure for figure in figures if figure["name"] not in paired]


def render(content: Mapping[str, Any], material: Material) -> str:
    """The report as HTML.

    Args:
        content: see :func:`vlaforget_ros.report.content.build`.
        material: what it was built from; gives the pictures.
    """
    rollouts = (content["closed_loop"] or {}).get("figures", [])
    return (
        environment()
        .get_template("edit.html.j2")
        .render(
            report=content,
            plots=plot_uris(edit_plots(material.record)),
            strips=[(s.caption, image_uri(s.before), image_uri(s.after)) for s in material.strips],
            pairs=pair_rows(rollouts),
            single=single_rows(rollouts),
            attacks=(content["attacks"] or {}).get("figures", []),
            request=yaml.safe_dump(content["request"], sort_keys=False, allow_unicode=True, width=110),
        )
    )


def report_edit(folder: Path) -> Path:
    """Write the report of an edit that nothing was measured on yet, into its folder.

    Raises:
        UnlearningError: 300 where no edit was finished there.
        AdapterError: 1xx where its adapter is unusable.
    """
    write_report(read_material(folder), folder / PAGE)
    return folder / PAGE


def write_report(material: Material, page: Path, created: str = "") -> dict[str, Any]:
    """Write the page, and the JSON document beside it under the same name.

    Args:
        material: what there is.
        page: HTML file; its folder is made if need be.
        created: time of the report, ISO 8601; now when not given.

    Returns:
        the document.
    """
    content = build(material, created or datetime.now(UTC).isoformat(timespec="seconds"))
    page.parent.mkdir(parents=True, exist_ok=True)
    page.with_suffix(".json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    page.write_text(render(content, material), encoding="utf-8")
    return content
