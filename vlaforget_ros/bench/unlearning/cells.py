"""One cell of the comparison: one variant on one scenario with one seed, edited and measured in closed loop."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from vlaforget_ros import figures
from vlaforget_ros.adapters.files import locked
from vlaforget_ros.adapters.peft_format import read_peft
from vlaforget_ros.attacks import quantise, relearn
from vlaforget_ros.attacks.outcomes import outcomes
from vlaforget_ros.attacks.subject import open_subject
from vlaforget_ros.bench.closed_loop import Episodes
from vlaforget_ros.bench.requests import record_request
from vlaforget_ros.bench.unlearning.variants import REFERENCES, Variant
from vlaforget_ros.cell.rollouts import PolicySpec, run
from vlaforget_ros.demo.plan import make_plan
from vlaforget_ros.errors import ErrorCode, UnlearningError
from vlaforget_ros.policy import checkpoint
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.unlearning.process import CHILD, EditProcess, Progress, edit_command
from vlaforget_ros.unlearning.request import Request, read_request

RECORDING_SEED = 10_000
# Ways of failing that say something about a method; any other one stops the benchmark.
FINDINGS = (
    ErrorCode.UNLEARNING_GATE_FAILED,
    ErrorCode.UNLEARNING_DIVERGED,
    ErrorCode.UNLEARNING_OUT_OF_MEMORY,
)
RELEARNING = (0, 2, 5, 10, 20, 50, 100)
Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Settings:
    """What is the same for all cells.

    Args:
        base: checkpoint folder.
        never_saw: folder of the reference that was trained without the planted behaviours.
        out: folder of bags, edits and cells; what is there already is not made again.
        episodes: that every policy is measured on.
        recorded: forget, retained and boundary episodes of the bag of a scenario.
        processes: simulator processes.
        budget_s: time budget of each edit [s].
        attacks: also attack each edit: quantisation and relearning, offline.
        threads: CPU threads of an edit.
        recording_seed: recorded episodes have seeds from here.
    """

    base: Path
    never_saw: Path
    out: Path
    episodes: Episodes = field(default_factory=Episodes)
    recorded: tuple[int, int, int] = (40, 48, 16)
    processes: int = 2
    budget_s: float = 240.0
    attacks: bool = False
    threads: int = 2
    recording_seed: int = RECORDING_SEED


def identity(settings: Settings) -> dict[str, Any]:
    """What cells must have in common to stand in one table."""
    seed = settings.recording_seed
    return {
        "base": checkpoint.digest(settings.base),
        "episodes": asdict(settings.episodes),
        "recorded": list(settings.recorded),
        **({} if seed == RECORDING_SEED else {"recording_seed": seed}),
    }


def require_same(settings: Settings) -> None:
    """Cells of other episodes or another base must not end up in one table.

    Raises:
        UnlearningError: 300 when the folder was begun with others.
    """
    file, wanted = settings.out / "identity.json", identity(settings)
    if not file.is_file():
        figures.write(file, wanted)
    elif json.loads(file.read_text()) != wanted:
        raise UnlearningError(
            ErrorCode.UNLEARNING_BAD_REQUEST,
            "this folder holds cells of another base or of other episodes",
            value=str(settings.out),
            limit=file.read_text(),
            remedy="give the same options, or another --out",
        )


def record_bag(settings: Settings, scenario: str, report: Report) -> Path:
    """The bag of a scenario, recorded with the base policy, and the request that goes with it; made once.

    Returns:
        the request file.
    """
    folder = settings.out / scenario
    document = folder / "request.yaml"

    def told(done: int, total: int) -> None:
        report(f"{scenario}: recording", done, total)

    # Several runs may share the work of a folder; one of them records.
    with locked(settings.out / f"{scenario}.lock"):
        if document.is_file():
            return document
        # A bag without a request is what a stopped run left.
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        plan = make_plan(scenario, *settings.recorded, first_seed=settings.recording_seed)
        return record_request(plan, settings.base, folder, settings.processes, None, 0, told)


def _cell_file(settings: Settings, variant: Variant, scenario: str, seed: int) -> Path:
    return settings.out / "cells" / f"{variant.name}-{scenario}-{seed}.json"


def missing(settings: Settings, variant: Variant, scenario: str, seed: int) -> bool:
    """Whether a cell was not made yet."""
    return not _cell_file(settings, variant, scenario, seed).is_file()


def run_cell(
    settings: Settings, variant: Variant, scenario: str, seed: int, report: Report
) -> dict[str, Any]:
    """A cell, from its file where it was made before."""
    path = _cell_file(settings, variant, scenario, seed)
    name = path.stem
    if path.is_file():
        found: dict[str, Any] = json.loads(path.read_text())
        return _attacked(settings, found, name, report)
    cell: dict[str, Any] = {"variant": variant.name, "scenario": scenario, "seed": seed}
    cell |= {"commit": figures.commit(), "error": None, "edit": None, "adapter": None}
    spec = PolicySpec(settings.never_saw if variant.name == "retrain" else settings.base)
    if variant.name not in REFERENCES:
        try:
            cell["edit"] = _edit(settings, variant, scenario, seed, name, report)
            adapter = settings.out / "edits" / name / "adapter"
            cell["adapter"] = str(adapter)
            spec = PolicySpec(settings.base, adapter)
        except UnlearningError as error:
            if error.code not in FINDINGS:
                raise
            # No adapter: the policy stays as it was, and is measured as that.
            cell["error"] = str(error)
    told = outcomes(
        run(
            spec,
            settings.episodes.jobs(scenario),
            settings.processes,
            progress=lambda a, b: report(f"{name}: episodes", a, b),
        )
    )
    cell["outcomes"] = [asdict(outcome) for outcome in told]
    figures.write(path, cell)
    return _attacked(settings, cell, name, report)


def _attacked(settings: Settings, cell: dict[str, Any], name: str, report: Report) -> dict[str, Any]:
    """The cell with ``attacked``: what quantisation and relearning bring back, and metrics on the same frames for all.

    The frames are those of the scenario's own request, counterfactual data included, whatever the edit was given.
    """
    path = settings.out / "cells" / f"{name}.attacked.json"
    if cell["adapter"] is None or (not settings.attacks and not path.is_file()):
        return cell
    if not path.is_file():
        request = recorded_request(settings, cell["scenario"], cell["seed"])
        figures.write(path, attacked(request, Path(cell["adapter"]), settings.never_saw, name, report))
    return {**cell, "attacked": json.loads(path.read_text())}


def recorded_request(settings: Settings, scenario: str, seed: int) -> Request:
    """The request of a scenario's bag with the seed of an edit: another seed holds back frames that this edit saw."""
    request = read_request(settings.out / scenario / "request.yaml")
    return request.model_copy(update={"seed": seed})


def attacked(request: Request, adapter: Path, never_saw: Path, name: str, report: Report) -> dict[str, Any]:
    """Offline: metrics, QRR at each precision and RLS of an edit.

    Args:
        request: whose frames are used.
        adapter: PEFT folder.
        never_saw: checkpoint folder of the reference.
        name: of the cell.
        report: called with (what, done, all).
    """
    subject = open_subject(request, read_peft(adapter))

    def told(what: str, done: int, total: int) -> None:
        report(f"{name}: {what}", done, total)

    reference = VlaPolicy.load(never_saw, request.device)
    reference.model.eval().requires_grad_(False)
    taught = relearn.RelearnSettings.of(subject, seed=0, points=RELEARNING)
    found = {
        "quantisation": quantise.attack(subject, report=told).row(),
        "relearning": relearn.attack(subject, reference, taught, report=told).row(),
    }
    return {"offline": subject.after.row(), "attacks": found, "commit": figures.commit()}


def _edit(
    settings: Settings, variant: Variant, scenario: str, seed: int, name: str, report: Report
) -> dict[str, Any]:
    values = yaml.safe_load(record_bag(settings, scenario, report).read_text())
    values |= {"name": name, "method": variant.method, "parameters": variant.parameters, "seed": seed}
    values |= {"budget": {"seconds": settings.budget_s}, "threads": settings.threads}
    if not variant.counterfactual:
        values["counterfactual"] = []
    folder = settings.out / "edits" / name
    folder.mkdir(parents=True, exist_ok=True)
    document = folder / "request.yaml"
    text = yaml.safe_dump(values, sort_keys=False)
    # Only an edit of the very same request may go on.
    resume = document.is_file() and document.read_text() == text
    document.write_text(text)
    command = edit_command(CHILD, document, folder, settings.out / "store", resume)
    for event in EditProcess(command, folder / "child.log").events():
        if isinstance(event, Progress):
            report(f"{name}: edit", event.step, event.total_steps)
    record: dict[str, Any] = json.loads((folder / "edit.json").read_text())
    wanted = ("seconds", "peak_mb", "adapter_bytes", "gates_passed", "remarks", "layers", "components")
    kept = {key: record[key] for key in wanted}
    kept["rounds"] = [
        {k: r[k] for k in ("stage", "round", "kept", "reason", "steps")} for r in record["rounds"]
    ]
    return {**kept, "offline": record["after"]["metrics"]}
