"""``vlaforget train`` and ``vlaforget demonstrations``: make the embedded policy."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path

import typer

from vlaforget_ros import figures
from vlaforget_ros.cli.output import bar, console


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command()(train)


def train(
    out: Path = typer.Argument(..., help="Folder of the new checkpoint."),
    demonstrations: Path = typer.Option(
        Path("runs/demonstrations.npz"),
        help="Demonstrations; made by the scripted experts when the file is absent.",
    ),
    never_saw: bool = typer.Option(
        False, "--never-saw", help="Leave the planted behaviours out: the reference that never saw them."
    ),
    steps: int = typer.Option(3600, min=1, help="Optimiser steps of 96 frames."),
    seed: int = typer.Option(0, help="Seeds weights, order of frames and demonstrations."),
    threads: int = typer.Option(1, min=1, help="CPU threads."),
    processes: int = typer.Option(2, min=1, help="Simulator processes while demonstrating."),
    device: str = typer.Option("cpu", help="cpu or cuda."),
    resume: bool = typer.Option(False, help="Go on from the last saved step of a stopped run."),
) -> None:
    """Train the embedded policy by behaviour cloning from scripted demonstrations.

    About 20 minutes on one core. A stopped run goes on with `--resume`. Writes config.json, tokenizer.json,
    model.safetensors, recipe.json and train_log.jsonl.
    """
    import torch

    from vlaforget_ros.policy.cloning import CloningProgress, CloningSettings, Frames, clone
    from vlaforget_ros.policy.policy import VlaPolicy
    from vlaforget_ros.policy.tiny import new_tiny

    torch.set_num_threads(threads)
    data = _demonstrations(demonstrations, seed, processes)
    shown = data.without_planted() if never_saw else data
    model, tokenizer = new_tiny(data.instructions, seed)
    policy = VlaPolicy(model.to(device), tokenizer, "")
    settings = CloningSettings(steps=steps, seed=seed)
    began = time.perf_counter()
    with bar("cloning", "steps") as update:

        def progress(line: CloningProgress) -> None:
            update(line.step, line.steps, f"loss {line.loss:.3f}  {line.frames_per_s:.0f} frames/s")  # type: ignore[call-arg]

        frames = Frames(shown.images, shown.actions, shown.instructions, shown.instruction_index)
        clone(policy, frames, settings, out, resume, progress)
    recipe = {
        "policy": "tiny",
        "planted_behaviours": not never_saw,
        "demonstrations": _recipe_entries(never_saw),
        "frames": len(shown.images),
        "settings": asdict(settings),
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds": round(time.perf_counter() - began, 1),
        "commit": figures.commit(),
        "hardware": figures.hardware(),
        "versions": figures.versions(),
    }
    (out / "recipe.json").write_text(json.dumps(recipe, indent=2) + "\n")
    console.print(f"checkpoint: {out}  (measure it with `vlaforget bench base --base {out}`)")


def _demonstrations(path: Path, seed: int, processes: int):  # type: ignore[no-untyped-def]
    from vlaforget_ros.cell.demonstrations import Demonstrations, generate, recipe

    if path.is_file():
        return Demonstrations.load(path)
    with bar("demonstrating", "episodes") as update:
        data = generate(recipe(), seed, processes=processes, progress=update)
    data.save(path)
    return data


def _recipe_entries(never_saw: bool) -> list[dict[str, object]]:
    from vlaforget_ros.cell.demonstrations import recipe

    return [asdict(entry) for entry in recipe() if not (never_saw and entry.planted)]
