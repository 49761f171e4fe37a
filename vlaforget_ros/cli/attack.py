"""``vlaforget attack``: whether what an edit took out comes back, and what the edit gives away."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from vlaforget_ros.cli.output import bar, console, errors, figure_table, plain_table
from vlaforget_ros.errors import AdapterError, ErrorCode

if TYPE_CHECKING:
    from vlaforget_ros.adapters.lora import LoraWeights
    from vlaforget_ros.attacks.successive import Link
    from vlaforget_ros.unlearning.request import Request

# Recordings of further requests start here: evaluation seeds stay below.
_CHAIN_SEED = 30_000


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(attack)


def attack(
    adapter: str = typer.Argument(..., help="Alias, name, digest or prefix in the store, or a PEFT folder."),
    request: Path = typer.Option(
        ..., exists=True, dir_okay=False, help="Request that it was made from (YAML)."
    ),
    store: Path = typer.Option(Path("runs/adapters"), help="Store of adapters; gets the result as evidence."),
    kinds: str = typer.Option(
        "quantisation,relearning,variants,membership",
        help="Which attacks, with commas; successive is to be asked for: it carries out further edits.",
    ),
    scenario: str = typer.Option("", help="Scenario of the simulated cell: attack in closed loop as well."),
    episodes: int = typer.Option(20, min=1, help="Episodes of each policy and each form of an attack."),
    first_seed: int = typer.Option(8000, min=0, max=9000, help="Seeds of episodes count up from here."),
    processes: int = typer.Option(2, min=1, help="Simulator processes."),
    never_saw: Path | None = typer.Option(
        None,
        exists=True,
        file_okay=False,
        help="Checkpoint that never saw the behaviour; the embedded policy has one.",
    ),
    then: list[Path] = typer.Option([], help="Request file that follows (successive). Repeatable."),
    points: str = typer.Option("0,10,50,100,500", help="Steps at which relearning is looked at."),
    seed: int = typer.Option(0, min=0, help="Of the attacker's training."),
    out: Path | None = typer.Option(None, help="Working folder; a new one under runs/attacks without it."),
    json_path: Path | None = typer.Option(None, "--json", help="Write the result here as well."),
) -> None:
    """Attack a finished edit: quantisation, relearning, variants of the cause, membership, successive requests.

    Offline on the recorded frames of the request, with `--scenario` also in closed loop. The result is kept as
    evidence beside the adapter's manifest; a failed gate in it (QRR) keeps the adapter from becoming `stable`.
    """
    import torch

    from vlaforget_ros import figures
    from vlaforget_ros.attacks.run import EVIDENCE, AttackSettings, check_kinds, merged, run
    from vlaforget_ros.attacks.trials import TrialSettings
    from vlaforget_ros.cell.situations import scenario as known
    from vlaforget_ros.unlearning.request import read_request

    asked = read_request(request)
    torch.set_num_threads(asked.threads)
    chosen = check_kinds([kind.strip() for kind in kinds.split(",")])
    steps = _points(points)
    name = known(scenario).name if scenario else ""
    folder = out or Path("runs/attacks") / datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    weights, digest = _adapter(adapter, store)
    with bar("attack", parts=True) as update:
        settings = AttackSettings(
            request=asked,
            adapter=weights,
            out=folder,
            kinds=chosen,
            store=store,
            reference=never_saw or _embedded_reference(asked),
            trials=TrialSettings(name, episodes, first_seed, processes) if name else None,
            points=steps,
            seed=seed,
            links=_links(then, name, asked, folder, processes, lambda what, a, b: update(a, b, what))
            if "successive" in chosen
            else (),
        )
        document = run(settings, lambda what, done, total: update(done, total, what))
    _print(document)
    if json_path is not None:
        figures.write(json_path, document)
        errors.print(f"JSON: {json_path}")
    if digest:
        from vlaforget_ros.adapters.store import AdapterStore

        opened = AdapterStore(store)
        earlier = opened.manifest(digest).evidence.get(EVIDENCE, {})
        opened.attach(digest, EVIDENCE, merged(earlier, document))
        console.print(f"evidence of adapter {digest} in {store}", soft_wrap=True)


def _adapter(reference: str, store: Path) -> tuple[LoraWeights, str]:
    """Weights, and their digest where they are in the store."""
    from vlaforget_ros.adapters.peft_format import read_peft
    from vlaforget_ros.adapters.store import AdapterStore

    if Path(reference).is_dir():
        return read_peft(Path(reference)), ""
    opened = AdapterStore(store)
    digest = opened.resolve(reference)
    if not digest:
        raise AdapterError(
            ErrorCode.ADAPTER_UNKNOWN,
            "the base model is no edit that could be attacked",
            value=reference,
            remedy="name an adapter of the store, or a folder in PEFT format",
        )
    return opened.load(digest), digest


def _embedded_reference(asked: Request) -> Path | None:
    """The never-saw reference that ships, where the request is about the policy it belongs to."""
    from vlaforget_ros.paths import models_directory
    from vlaforget_ros.policy import checkpoint

    models = models_directory()
    reference = models / "tiny-never-saw"
    if not reference.is_dir() or not (models / "tiny").is_dir():
        return None
    own = checkpoint.digest(Path(asked.base)) == checkpoint.digest(models / "tiny")
    return reference if own else None


def _links(
    then: list[Path],
    scenario: str,
    asked: Request,
    folder: Path,
    processes: int,
    report: Callable[[str, int, int], None],
) -> tuple[Link, ...]:
    from vlaforget_ros.attacks.successive import Link
    from vlaforget_ros.bench.requests import chain
    from vlaforget_ros.unlearning.request import read_request

    if then or not scenario:
        return tuple(Link(f"request_{n}", read_request(file)) for n, file in enumerate(then, start=2))
    return chain(scenario, Path(asked.base), folder / "requests", processes, report, _CHAIN_SEED)


def _points(text: str) -> tuple[int, ...]:
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise typer.BadParameter(f"{text!r}: numbers with commas", param_hint="--points") from error
    if found[0] != 0 or sorted(set(found)) != list(found):
        raise typer.BadParameter(f"{text!r}: ascending from 0", param_hint="--points")
    return found


def _print(document: dict[str, Any]) -> None:
    for kind, found in document["attacks"].items():
        console.print(figure_table({"benchmark": kind, "figures": found["figures"]}))
        for remark in found["remarks"]:
            console.print(remark, highlight=False)
    gates = [
        [g["name"], g["verdict"], "" if g["value"] is None else f"{g['value']:.4g}", f"{g['limit']:.4g}"]
        for g in document["gates"]
    ]
    if gates:
        console.print(plain_table(["gate", "verdict", "value", "limit"], gates))
    console.print(
        plain_table(["what this does not show"], [[text] for text in document["not_proven"]]), highlight=False
    )
