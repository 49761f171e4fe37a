"""``vlaforget evaluate``: an adapter in closed loop, with the gates that need rollouts."""

from __future__ import annotations

from pathlib import Path

import typer

from vlaforget_ros.cli.output import bar, console, errors, plain_table, show
from vlaforget_ros.paths import models_directory

EVIDENCE = "closed_loop"


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(evaluate)


def evaluate(
    adapter: str = typer.Argument(..., help="Adapter in the store (alias, name, digest), or a PEFT folder."),
    scenario: str = typer.Option(..., help="Planted behaviour that was edited: trigger, binding or prior."),
    store: Path = typer.Option(Path("runs/adapters"), help="Adapter store; gets the result as evidence."),
    request: Path | None = typer.Option(None, exists=True, help="Request file, for its gates and base."),
    base: Path | None = typer.Option(None, help="Checkpoint folder; the request's, or the embedded policy."),
    never_saw: Path | None = typer.Option(
        None, exists=True, help="Checkpoint that never saw the behaviour; the embedded policy has one."
    ),
    forget: int = typer.Option(60, min=1, help="Episodes in the forget situations."),
    retain: int = typer.Option(10, min=1, help="Episodes of each retained task."),
    first_seed: int = typer.Option(9000, min=0, max=9000, help="Episode seeds from here."),
    processes: int = typer.Option(2, min=1, help="Simulator processes."),
    pictures: Path | None = typer.Option(
        None, help="Folder for film strips of some episodes before and after; `report --pictures` shows them."
    ),
    json_path: Path | None = typer.Option(None, "--json", help="Write the figures here as well."),
) -> None:
    """Run base and edited policy on the same episodes of the simulated cell and judge the closed-loop gates.

    The result is attached to the adapter in the store: an adapter that fails a gate here cannot become `stable`. The
    never-saw reference is measured beside them where its checkpoint is installed.
    """
    from vlaforget_ros.adapters.store import AdapterStore
    from vlaforget_ros.bench.closed_loop import Episodes
    from vlaforget_ros.bench.closed_loop import evaluate as measure
    from vlaforget_ros.cell.situations import scenario as known
    from vlaforget_ros.unlearning.gates import Gates
    from vlaforget_ros.unlearning.request import read_request

    name = known(scenario).name
    asked = read_request(request) if request else None
    adapters = AdapterStore(store)
    digest = "" if Path(adapter).is_dir() else adapters.resolve(adapter)
    reference = never_saw or models_directory() / "tiny-never-saw"
    with bar("evaluate", parts=True) as update:
        document = measure(
            base or (Path(asked.base) if asked else models_directory() / "tiny"),
            adapters.path(digest) if digest else Path(adapter),
            reference if reference.is_dir() else None,
            name,
            Episodes(forget, retain, first_seed=first_seed),
            asked.gates if asked else Gates(),
            processes,
            lambda what, done, total: update(done, total, what),
            pictures,
        )
    show(document, json_path, f"{adapter}, scenario {name}, closed loop in the simulated cell")
    rows = [
        [g["name"], g["verdict"], *map(_text, (g["value"], g["limit"], g["n"]))] for g in document["gates"]
    ]
    console.print(plain_table(["gate", "verdict", "value", "limit", "n"], rows))
    if digest:
        adapters.attach(digest, EVIDENCE, document)
        errors.print(f"attached to {digest[:12]} in {store}")


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
