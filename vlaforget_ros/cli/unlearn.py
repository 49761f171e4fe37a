"""``vlaforget unlearn`` and ``vlaforget methods``: the edit on a workstation, without ROS."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import typer
import yaml

from vlaforget_ros.cli import report
from vlaforget_ros.cli.output import bar, console, plain_table, print_json
from vlaforget_ros.errors import ErrorCode, UnlearningError

if TYPE_CHECKING:
    from vlaforget_ros.unlearning.process import Progress
    from vlaforget_ros.unlearning.request import Request


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command()(unlearn)
    app.command()(methods)


def unlearn(
    request: Path = typer.Argument(..., exists=True, dir_okay=False, help="Request file (YAML)."),
    out: Path | None = typer.Option(None, help="Folder of the run; runs/edits/NAME when not given."),
    store: Path = typer.Option(Path("runs/adapters"), help="Store that gets the adapter."),
    resume: bool = typer.Option(False, help="Go on after the last checkpoint of a stopped run."),
    own_weights: bool = typer.Option(
        False, help="Load base weights also where a policy node on this host lends its own (docs/models.md)."
    ),
    method: str = typer.Option(
        "", help="Another method than the request's, on the same data: see `methods`."
    ),
) -> None:
    """Run the edit of a request file and put the adapter into the store.

    The edit runs in a child process, as on the robot. Ctrl-C stops it; `--resume` goes on after the last checkpoint.
    An adapter that fails a gate is stored and marked: it cannot become `stable`. With `--method` those parameters of
    the request are kept that the other method has, too, and name and folder get the suffix `-METHOD`.
    """
    from vlaforget_ros.adapters.store import AdapterStore
    from vlaforget_ros.report.material import read_material
    from vlaforget_ros.report.page import PAGE
    from vlaforget_ros.unlearning.contradictions import require_base
    from vlaforget_ros.unlearning.process import CHILD, Done, EditProcess, edit_command
    from vlaforget_ros.unlearning.request import read_request

    wanted = read_request(request)
    require_base(wanted.base)
    if method:
        wanted = _with_method(wanted, method)
    name = wanted.name
    folder = out or Path("runs/edits") / name
    folder.mkdir(parents=True, exist_ok=True)
    if method:
        request = folder / "request.yaml"
        request.write_text(yaml.safe_dump(wanted.model_dump(mode="json"), sort_keys=False), encoding="utf-8")
    command = edit_command(CHILD, request, folder, store, resume, own_weights=own_weights)
    edit = EditProcess(command, folder / "child.log", lambda text: console.print(text, highlight=False))
    done = None
    with bar("edit", "steps", remaining=False) as update:
        for event in edit.events():
            if isinstance(event, Done):
                done = event
            else:
                _report(update, event)
    if done is None:
        raise UnlearningError(ErrorCode.UNLEARNING_KILLED, "the edit ended without a result")
    manifest = AdapterStore(store).add(done.directory, done.provenance)
    rows = [[key, f"{value:.4g}"] for key, value in done.metrics.items()]
    console.print(plain_table(["metric", "value"], rows, f"edit {name}, offline, on held-out frames"))
    record = json.loads(Path(done.report).read_text())
    gates = [[g["name"], g["verdict"], _text(g["value"]), _text(g["limit"])] for g in record["gates"]]
    console.print(plain_table(["gate", "verdict", "value", "limit"], gates))
    for remark in done.remarks:
        console.print(remark, highlight=False)
    console.print(f"adapter {manifest.digest} in {store}; record {done.report}", soft_wrap=True)
    report.write(read_material(folder), folder / PAGE)


def methods(json_output: bool = typer.Option(False, "--json", help="Print JSON.")) -> None:
    """The methods that a request may name: key, what it does, where its formula is from.

    `docs/methods.md` has their formulae and failures, `config/methods/KEY.yaml` all parameters with their defaults.
    """
    from vlaforget_ros.unlearning.methods import METHODS

    rows = [{"key": m.key, "method": m.title, "source": m.source} for m in METHODS.values()]
    if json_output:
        print_json(rows)
        return
    console.print(plain_table(list(rows[0]), [list(row.values()) for row in rows], f"{len(rows)} methods"))


def _with_method(request: Request, key: str) -> Request:
    from vlaforget_ros.unlearning.override import with_method

    changed, kept, dropped = with_method(request, key)
    console.print(f"method {key} instead of {request.method}: {changed.name}", highlight=False)
    if kept:
        console.print(f"kept of the request's parameters: {', '.join(kept)}", highlight=False)
    if dropped:
        console.print(f"dropped, as {key} has none of them: {', '.join(dropped)}", highlight=False)
    return changed


def _report(update: Callable[..., None], event: Progress) -> None:
    """Stage and round, losses or what goes on, time left, memory; the bar itself shows the steps."""
    losses = event.doing or " ".join(f"{name} {value:.3f}" for name, value in event.losses.items())
    left = f"ETA {event.eta_s:.0f} s" if event.eta_s >= 0 else "ETA unknown"
    where = f"{event.stage} {event.round}  " if event.stage else ""
    update(
        event.step,
        event.total_steps,
        f"{where}{losses}  {left}  {event.peak_mb:.0f} MB",
    )


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
