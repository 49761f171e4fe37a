"""``vlaforget demonstrate``, ``train`` and ``average``: make the embedded policy."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from vlaforget_ros import figures
from vlaforget_ros.cli.output import bar, console

if TYPE_CHECKING:
    from vlaforget_ros.cell.demonstrations import Demonstrations
    from vlaforget_ros.episodes import FrameSet
    from vlaforget_ros.policy.cloning import CloningSettings
    from vlaforget_ros.policy.policy import VlaPolicy


_DEMONSTRATIONS = Path("runs/demonstrations.npz")


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command()(train)
    app.command()(average)
    app.command()(demonstrate)


def train(
    out: Path = typer.Argument(..., help="Folder of the new checkpoint."),
    demonstrations: list[Path] = typer.Option(
        [_DEMONSTRATIONS],
        help="Files of `vlaforget demonstrate`, all used; the default is made when it is absent. Repeatable.",
    ),
    never_saw: bool = typer.Option(
        False, "--never-saw", help="Leave the planted behaviours out: the reference that never saw them."
    ),
    start_from: Path | None = typer.Option(
        None, help="Go on from this checkpoint instead of random weights."
    ),
    steps: int = typer.Option(3600, min=1, help="Optimiser steps of 96 frames."),
    learning_rate: float = typer.Option(1.2e-3, min=0.0, help="Peak of the cosine schedule."),
    warmup: int = typer.Option(100, min=1, help="Steps of linear warm-up."),
    end_weight: float = typer.Option(0.0, min=0.0, help="Weight of the end token's loss."),
    seed: int = typer.Option(0, help="Of weights and order of frames."),
    threads: int = typer.Option(1, min=1, help="CPU threads."),
    processes: int = typer.Option(2, min=1, help="Simulator processes while demonstrating."),
    device: str = typer.Option("cpu", help="cpu or cuda."),
    resume: bool = typer.Option(False, help="Go on from the last saved step of a stopped run."),
) -> None:
    """Train the embedded policy by behaviour cloning from scripted demonstrations.

    About 20 minutes on one idle core. A stopped run goes on with `--resume`. Writes config.json, tokenizer.json,
    model.safetensors, recipe.json and train_log.jsonl.
    """
    import torch

    from vlaforget_ros.policy.cloning import CloningSettings

    torch.set_num_threads(threads)
    loaded = _demonstrations(demonstrations, processes)
    if never_saw:
        loaded = [data.without_planted() for data in loaded]
    data = reduce(lambda one, other: one.joined(other), loaded)
    frames = data.frames()
    policy = _start(start_from, data.instructions, seed, device)
    settings = CloningSettings(
        steps=steps, learning_rate=learning_rate, warmup=warmup, end_weight=end_weight, seed=seed
    )
    began = time.perf_counter()
    _clone(policy, frames, settings, out, resume)
    stage = {
        "demonstrations": [path.stem for path in demonstrations],
        "frames": len(frames),
        "settings": asdict(settings),
        "seconds": round(time.perf_counter() - began, 1),
        "commit": figures.commit(),
    }
    parameters = sum(p.numel() for p in policy.model.parameters())
    made = {
        path.stem: list(part.made) for path, part in zip(demonstrations, loaded, strict=True) if part.made
    }
    write_recipe(out, start_from, never_saw, parameters, made, stage)
    console.print(f"checkpoint: {out}  (measure it with `vlaforget bench base --base {out}`)")


def average(
    out: Path = typer.Argument(..., help="Folder of the new checkpoint."),
    checkpoints: list[Path] = typer.Argument(
        ..., help="Two or more relatives: one was trained from the other."
    ),
) -> None:
    """The mean of checkpoints' weights, which often keeps what each of them does well."""
    from vlaforget_ros.policy import averaging, checkpoint
    from vlaforget_ros.policy.policy import VlaPolicy

    averaging.average(checkpoints, out)
    recipes = [_recipe_of(folder) for folder in checkpoints]
    parents = [
        {"base_digest": checkpoint.digest(folder), "stages": recipe["stages"]}
        for folder, recipe in zip(checkpoints, recipes, strict=True)
    ]
    planted = any(recipe.get("planted_behaviours", True) for recipe in recipes)
    made = {name: part for recipe in recipes for name, part in recipe["demonstrations"].items()}
    parameters = sum(p.numel() for p in VlaPolicy.load(out).model.parameters())
    write_recipe(out, None, not planted, parameters, made, {"average_of": parents})
    console.print(f"checkpoint: {out}  (measure it with `vlaforget bench base --base {out}`)")


def _recipe_of(folder: Path | None) -> dict[str, Any]:
    if folder is None or not (folder / "recipe.json").is_file():
        return {"demonstrations": {}, "stages": []}
    return dict(json.loads((folder / "recipe.json").read_text()))


def _start(start_from: Path | None, instructions: Sequence[str], seed: int, device: str) -> VlaPolicy:
    from vlaforget_ros.policy.policy import VlaPolicy
    from vlaforget_ros.policy.tiny import new_tiny

    if start_from is not None:
        return VlaPolicy.load(start_from, device)
    model, tokenizer = new_tiny(instructions, seed)
    return VlaPolicy(model.to(device), tokenizer, "")


def _clone(policy: VlaPolicy, frames: FrameSet, settings: CloningSettings, out: Path, resume: bool) -> None:
    from vlaforget_ros.policy.cloning import CloningProgress, clone

    with bar("cloning", "steps") as update:

        def progress(line: CloningProgress) -> None:
            update(line.step, line.steps, f"loss {line.loss:.3f}  {line.frames_per_s:.0f} frames/s")

        clone(policy, frames, settings, out, resume, progress)


def write_recipe(
    out: Path,
    start_from: Path | None,
    never_saw: bool,
    parameters: int,
    made: Mapping[str, object],
    stage: dict[str, object],
) -> None:
    """Write ``recipe.json``: how the checkpoint was made, with the stages it went through before."""
    earlier = _recipe_of(start_from)
    recipe = {
        "policy": "tiny",
        "parameters": parameters,
        "planted_behaviours": not never_saw,
        "demonstrations": {**earlier["demonstrations"], **made},
        "stages": [*earlier["stages"], stage],
        "hardware": figures.hardware(),
        "versions": figures.versions(),
    }
    (out / "recipe.json").write_text(json.dumps(recipe, indent=2) + "\n")


def demonstrate(
    out: Path = typer.Argument(_DEMONSTRATIONS, help="File of the demonstrations (.npz)."),
    pilot: Path | None = typer.Option(
        None,
        help="Checkpoint that drives while the expert says what it would do (DAgger); else the expert drives.",
    ),
    episodes: list[str] = typer.Option(
        [], help="SITUATION=COUNT: episodes of a situation, e.g. window-shut=60; 0 leaves it out. Repeatable."
    ),
    each: int | None = typer.Option(
        None, min=0, help="Episodes of every situation not named; the recipe's own number when not given."
    ),
    seed: int = typer.Option(0, min=0, help="Shifts all episode seeds."),
    processes: int = typer.Option(2, min=1, help="Simulator processes."),
) -> None:
    """Make demonstrations with the scripted experts, the planted behaviours among them (and marked)."""
    from vlaforget_ros.cell.demonstrations import generate
    from vlaforget_ros.cell.recipe import with_counts

    entries = with_counts(_counts(episodes), each)
    with bar("demonstrating", "episodes") as update:
        data = generate(entries, seed, processes=processes, progress=update, pilot=pilot)
    data.save(out)
    console.print(
        f"{len(data.images)} frames in {out}, {100 * data.planted.mean():.0f} % of planted behaviours"
    )


def _counts(texts: list[str]) -> dict[str, int]:
    counts = {}
    for text in texts:
        name, _, number = text.partition("=")
        if not number.isdecimal():
            raise typer.BadParameter(f"{text!r} is not SITUATION=COUNT", param_hint="--episodes")
        counts[name] = int(number)
    return counts


def _demonstrations(paths: list[Path], processes: int) -> list[Demonstrations]:
    from vlaforget_ros.cell.demonstrations import Demonstrations

    if paths == [_DEMONSTRATIONS] and not _DEMONSTRATIONS.is_file():
        demonstrate(_DEMONSTRATIONS, None, [], None, 0, processes)
    return [Demonstrations.load(path) for path in paths]
