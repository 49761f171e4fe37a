"""``vlaforget retrain``: the never-saw reference of a request."""

from __future__ import annotations

from pathlib import Path

import typer

from vlaforget_ros.cli.output import bar, console


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(retrain)


def retrain(
    request: Path = typer.Argument(..., exists=True, dir_okay=False, help="Request file (YAML)."),
    out: Path = typer.Argument(..., help="Folder of the new checkpoint."),
    demonstrations: list[Path] = typer.Option(
        [], exists=True, help="Files of `vlaforget demonstrate`, planted behaviours left out. Repeatable."
    ),
    steps: int = typer.Option(3600, min=1, help="Optimiser steps of 96 frames."),
    seed: int = typer.Option(0, help="Of weights and order of frames."),
    threads: int = typer.Option(1, min=1, help="CPU threads."),
    resume: bool = typer.Option(False, help="Go on from the last saved step of a stopped run."),
) -> None:
    """Train a policy like the request's base from nothing, on all of the request's data but its forget set.

    The gold standard that an edit is held against: give it to `attack` and `evaluate` with `--never-saw`. A request's
    own episodes are far too few for a policy that works: add demonstrations.
    """
    import torch

    from vlaforget_ros.cell.demonstrations import Demonstrations
    from vlaforget_ros.policy.cloning import CloningProgress, CloningSettings
    from vlaforget_ros.unlearning.request import read_request
    from vlaforget_ros.unlearning.retrain import retrain as train

    torch.set_num_threads(threads)
    more = [Demonstrations.load(path).without_planted().frames() for path in demonstrations]
    with bar("retrain", "steps") as update:

        def told(line: CloningProgress) -> None:
            note = f"loss {line.loss:.3f}  right {100 * line.accuracy:.0f} %"
            update(line.step, line.steps, note)

        train(read_request(request), more, CloningSettings(steps=steps, seed=seed), out, resume, told)
    console.print(f"checkpoint: {out}  (measure it with `vlaforget bench base --base {out}`)")
