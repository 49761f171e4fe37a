"""The report of a canary: its record as JSON, and one HTML page that needs nothing else, verdict first."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from vlaforget_ros.errors import CanaryError, ErrorCode
from vlaforget_ros.report.canary_plots import canary_plots
from vlaforget_ros.report.page import environment, plot_uris
from vlaforget_ros.safety.canary.document import FORMAT

PAGE, DOCUMENT = "canary.html", "canary.json"


def write(folder: Path, document: Mapping[str, Any]) -> Path:
    """Write record and page into a folder, which is made if need be; returns the page.

    Args:
        folder: for both files.
        document: see :func:`vlaforget_ros.safety.canary.document.document`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / DOCUMENT).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    (folder / PAGE).write_text(render(document), encoding="utf-8")
    return folder / PAGE


def read(path: Path) -> dict[str, Any]:
    """Read a record that :func:`write` wrote.

    Raises:
        CanaryError: 503 where there is none, or one of another format.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unusable(f"the record of the canary cannot be read: {error}", path) from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise _unusable("this is no record of a canary, or one of another format", path)
    return found


def render(document: Mapping[str, Any]) -> str:
    """The page as HTML."""
    notes = [point for point in document["trace"] if point["note"]]
    return (
        environment()
        .get_template("canary.html.j2")
        .render(
            report=document,
            plots=plot_uris(canary_plots(document)),
            notes=notes,
            protocol=yaml.safe_dump(document["protocol"], sort_keys=False, width=110),
        )
    )


def _unusable(message: str, path: Path) -> CanaryError:
    return CanaryError(
        ErrorCode.CANARY_BAD_RECORD,
        message,
        value=path,
        limit=f"{DOCUMENT}, format {FORMAT}",
        remedy="name its file",
    )
