"""What a request chooses, as tables and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from vlaforget_ros.cli.output import console, errors, plain_table
from vlaforget_ros.episodes.types import ScanReport
from vlaforget_ros.figures import write
from vlaforget_ros.unlearning.checks import describe_set
from vlaforget_ros.unlearning.examine import Examined
from vlaforget_ros.unlearning.neighbours import Neighbour
from vlaforget_ros.unlearning.request import Request


def show_examined(examined: Examined, neighbours: Sequence[Neighbour], report: ScanReport) -> None:
    """Print the sets, the neighbours, what was left out of the bags, and the findings."""
    rows = []
    for name, chosen in examined.sets.by_name().items():
        row = describe_set(chosen)
        share = "" if row["success"] is None else f"{row['success']:.0%}"
        told = ", ".join(f"{text} ({frames})" for text, frames in row["instructions"].items())
        rows.append([name, str(row["episodes"]), str(row["frames"]), share, told])
    columns = ["set", "episodes", "frames", "success", "instructions (frames)"]
    console.print(plain_table(columns, rows, f"{len(report.episodes)} rollouts in the bags"))
    if neighbours:
        near = [[n.rollout_id, n.instruction, f"{n.distance:.3f}", n.nearest] for n in neighbours]
        title = "boundary set: near neighbours as the base policy sees them"
        console.print(plain_table(["rollout", "instruction", "distance", "nearest to"], near, title))
    for problem in report.problems:
        errors.print(f"left out: {problem.count} × {problem.kind}: {problem.message}", highlight=False)
    for finding in examined.findings:
        console.print(str(finding), highlight=False, soft_wrap=True, markup=False)


def write_document(
    json_path: Path | None,
    path: Path,
    request: Request,
    examined: Examined,
    neighbours: Sequence[Neighbour],
    changes: Sequence[str],
) -> None:
    """Write all of it where ``json_path`` says, if it says so."""
    if json_path is None:
        return
    sizes = examined.sets.sizes()
    sets = {
        name: {**describe_set(chosen), "rollouts": sizes[name]}
        for name, chosen in examined.sets.by_name().items()
    }
    document = {
        "request": str(path),
        "digest": request.digest,
        "bags": list(request.bags),
        "selected": None if request.selected is None else request.selected.model_dump(mode="json"),
        "sets": sets,
        "neighbours": [asdict(neighbour) for neighbour in neighbours],
        "findings": [asdict(finding) for finding in examined.findings],
        "changes": list(changes),
    }
    write(json_path, document)
    errors.print(f"JSON: {json_path}")
