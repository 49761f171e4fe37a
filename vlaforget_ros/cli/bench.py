"""``vlaforget bench NAME``: every benchmark prints a table and writes one JSON form."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import typer
import yaml

from vlaforget_ros.cli import bench_arms, bench_safety, bench_serving
from vlaforget_ros.cli.methods_table import show_methods
from vlaforget_ros.cli.output import bar, show
from vlaforget_ros.paths import models_directory

app = typer.Typer(
    no_args_is_help=True, help="Measure: each benchmark prints a table and, with --json, writes it."
)
bench_safety.register(app)
bench_arms.register(app)
bench_serving.register(app)

_JSON = typer.Option(None, "--json", help="Write the figures here as well.")
_BASE = typer.Option(None, "--base", help="Checkpoint folder; the embedded policy when not given.")
_PROCESSES = typer.Option(2, min=1, help="Simulator processes.")


@app.command()
def base(
    json_path: Path | None = _JSON,
    base: Path | None = _BASE,
    adapter: Path | None = typer.Option(None, help="Adapter folder (PEFT format) to put on the base."),
    episodes: int = typer.Option(20, min=1, help="Episodes for each situation."),
    first_seed: int = typer.Option(0, min=0, max=9000, help="Evaluation seeds from here."),
    processes: int = _PROCESSES,
) -> None:
    """Success on every task, what the instruction decides, and how often the planted behaviours show."""
    from vlaforget_ros.bench.base import measure
    from vlaforget_ros.cell.rollouts import PolicySpec

    spec = PolicySpec(base or models_directory() / "tiny", adapter)
    with bar("rollouts", "episodes") as update:
        document = measure(spec, episodes, first_seed, processes, progress=update)
    show(document, json_path, f"{spec.base.name}, closed loop in the simulated cell")


@app.command()
def scenarios(
    json_path: Path | None = _JSON,
    base: Path | None = _BASE,
    scenario: list[str] = typer.Option([], help="trigger, binding or prior; all when not given. Repeatable."),
    out: Path | None = typer.Option(None, help="Working folder; a new one under runs/bench when not given."),
    forget: int = typer.Option(80, min=1, help="Evaluation episodes of each scenario."),
    retain: int = typer.Option(20, min=1, help="Evaluation episodes of each retained task."),
    parameters: Path | None = typer.Option(None, help="YAML file with parameters of the method."),
    seed: int = typer.Option(0, help="Seed of the edits."),
    first_seed: int = typer.Option(
        0,
        min=0,
        max=9000,
        help="Evaluation seeds from here; the method's defaults were chosen looking at those from 0.",
    ),
    processes: int = _PROCESSES,
) -> None:
    """Take each planted behaviour out and measure on fresh seeds: targeted violations, safe success, retained tasks."""
    from vlaforget_ros.bench.scenarios import Settings, measure
    from vlaforget_ros.cell.situations import SCENARIOS
    from vlaforget_ros.cell.situations import scenario as known

    models = models_directory()
    settings = Settings(
        base=base or models / "tiny",
        never_saw=models / "tiny-never-saw" if (models / "tiny-never-saw").is_dir() else None,
        out=out or Path("runs/bench") / f"scenarios-{_now()}",
        scenarios=[known(name).name for name in scenario] or list(SCENARIOS),
        forget=forget,
        retain=retain,
        processes=processes,
        parameters=yaml.safe_load(parameters.read_text()) if parameters else None,
        seed=seed,
        first_seed=first_seed,
    )
    with bar("scenarios", parts=True) as update:
        document = measure(settings, lambda what, done, total: update(done, total, what))
    show(document, json_path, "planted behaviours, before and after the edit")


@app.command()
def unlearning(
    json_path: Path | None = _JSON,
    plot_path: Path | None = typer.Option(None, "--plot", help="Write the picture here (PNG or SVG)."),
    page_path: Path | None = typer.Option(None, "--page", help="Write the page of the documentation here."),
    rows_path: Path | None = typer.Option(
        None,
        "--rows",
        help="Finished rows of earlier runs (JSON lines): not run again; new ones are added to it.",
    ),
    finished: bool = typer.Option(False, "--finished", help="Run nothing: sum up the cells that are there."),
    method: list[str] = typer.Option(
        [],
        help="Row of the table: a method, METHOD_plain (no counterfactual data) or an ablation. Repeatable.",
    ),
    setting: list[str] = typer.Option(
        [],
        "--set",
        help="KEY=VALUE[;KEY=VALUE]: every row once more with these parameters, to compare values. Repeatable.",
    ),
    scenario: list[str] = typer.Option([], help="trigger, binding or prior; all when not given. Repeatable."),
    seeds: int = typer.Option(3, min=1, help="Edits of each row and scenario, with seeds from 0."),
    plain: bool = typer.Option(True, help="Also every method without counterfactual data."),
    ablations: bool = typer.Option(True, help="Also VLA-Forget without each of its parts."),
    out: Path = typer.Option(
        Path("runs/bench/unlearning"), help="Working folder; what is there already is not run again."
    ),
    base: Path | None = _BASE,
    forget: int = typer.Option(60, min=1, help="Evaluation episodes in the forget situations of a scenario."),
    retain: int = typer.Option(10, min=1, help="Evaluation episodes of each retained task."),
    first_seed: int = typer.Option(9000, min=0, max=9000, help="Evaluation seeds from here."),
    recording_seed: int = typer.Option(
        10_000,
        min=10_000,
        help="Recorded seeds from here: choose settings on others than those of the table.",
    ),
    budget: float = typer.Option(240.0, min=1.0, help="Time budget of each edit [s]."),
    attacks: bool = typer.Option(
        False, "--attacks", help="Also attack each edit offline: quantisation (QRR) and relearning (RLS)."
    ),
    threads: int = typer.Option(2, min=1, help="CPU threads of an edit."),
    processes: int = _PROCESSES,
) -> None:
    """Every method and ablation on the same bags, budget and seeds: the table of forgetting and retention.

    All of it is hours of work. It can be stopped at any time: the same command goes on where it was.
    """
    from vlaforget_ros.bench.closed_loop import Episodes
    from vlaforget_ros.bench.unlearning import cells, matrix, variants
    from vlaforget_ros.bench.unlearning.page import page
    from vlaforget_ros.bench.unlearning.plot import plot
    from vlaforget_ros.cell.situations import SCENARIOS
    from vlaforget_ros.cell.situations import scenario as known

    models = models_directory()
    settings = cells.Settings(
        base=base or models / "tiny",
        never_saw=models / "tiny-never-saw",
        out=out,
        episodes=Episodes(forget, retain, first_seed=first_seed),
        processes=processes,
        budget_s=budget,
        attacks=attacks,
        threads=threads,
        recording_seed=recording_seed,
    )
    chosen = variants.with_settings(variants.choose(method, plain, ablations), setting)
    names = [known(name).name for name in scenario] or list(SCENARIOS)
    with bar("unlearning", parts=True) as update:
        document = matrix.measure(
            settings,
            chosen,
            names,
            range(seeds),
            lambda what, done, total: update(done, total, what),
            finished,
            rows_path,
        )
    rows = [variant["name"] for variant in document["variants"]]
    show_methods(document, rows, json_path)
    if plot_path is not None:
        plot(document, plot_path, rows)
    if page_path is not None:
        picture = os.path.relpath(plot_path, page_path.parent) if plot_path is not None else ""
        page_path.write_text(page(document, picture), encoding="utf-8")


@app.command()
def edit(
    json_path: Path | None = _JSON,
    base: Path | None = _BASE,
    model: Literal["tiny", "openvla_7b", "openvla_oft", "pi0_fast"] = typer.Option(
        "tiny", help="--base, or random weights of this kind."
    ),
    size: Literal["small", "full"] = typer.Option(
        "small", help="Of random weights: all small, or as released."
    ),
    stage: Literal["all", "visual", "projector", "language"] = typer.Option("all", help="Which is timed."),
    blocks: int = typer.Option(2, min=1, help="Language blocks that are edited, from the top."),
    steps: int = typer.Option(15, min=3, help="Timed steps of each form."),
    frames: int = typer.Option(256, min=8, help="Random frames of each set."),
    batch: int = typer.Option(0, min=0, help="Frames of each set in a step; 0: as the method's default."),
    dtype: Literal["default", "float32", "bfloat16"] = typer.Option(
        "default", help="Of random weights; float32 on the CPU and bfloat16 on a GPU unless given."
    ),
    checkpointing: bool = typer.Option(False, help="Recompute blocks in the backward pass."),
    bf16: bool = typer.Option(False, help="Training passes in bfloat16."),
    threads: int = typer.Option(2, min=1, help="CPU threads."),
    device: str = typer.Option("cpu", help="cpu or cuda."),
    seed: int = typer.Option(0, help="Of frames and batches."),
) -> None:
    """A step of each stage with frozen work done once, against the plain form, in one run.

    peak_mb is that of both forms together, mapped weights included. At full size on a CPU, half an hour:
    vlaforget bench edit --model openvla_7b --size full --dtype bfloat16 --stage language --frames 8 --batch 1 --steps 3
    """
    import torch

    from vlaforget_ros.bench.edit import Settings, measure
    from vlaforget_ros.bench.random_release import released
    from vlaforget_ros.policy.policy import VlaPolicy
    from vlaforget_ros.unlearning.methods.vla_forget import VlaForgetParameters
    from vlaforget_ros.unlearning.parameters import STAGES

    torch.set_num_threads(threads)
    chosen: dict[str, Any] = {"gradient_checkpointing": checkpointing, "autocast": "bf16" if bf16 else "off"}
    if batch:
        chosen |= {f"batch_{name}": batch for name in ("forget", "retain", "boundary", "counterfactual")}
    parameters = VlaForgetParameters(**chosen)
    kind = None if dtype == "default" else getattr(torch, dtype)
    texts = ("open the faucet", "close the window")
    settings = Settings(
        blocks, frames, steps, parameters, texts, seed, STAGES if stage == "all" else (stage,)
    )
    with ExitStack() as stack:
        directory = base or models_directory() / "tiny"
        if model != "tiny":
            directory = stack.enter_context(
                released(size, device, texts, seed, model=model, dtype=kind)
            ).directory
        update = stack.enter_context(bar("steps"))
        document = measure(VlaPolicy.load(directory, device), settings, update)
    show(document, json_path, "a training step of each stage; without a name: language/action")


@app.command()
def sizing(
    json_path: Path | None = _JSON,
    frames: int = typer.Option(2000, min=1, help="Frames of all sets together."),
    batch: int = typer.Option(64, min=1, help="Frames of a step."),
    micro_batch: int = typer.Option(8, min=1, help="Frames of one forward and backward pass."),
    blocks: int = typer.Option(8, min=1, max=32, help="Language blocks that are edited, from the top."),
    rank: int = typer.Option(16, min=1, help="LoRA rank."),
) -> None:
    """What editing OpenVLA-7B's language/action blocks needs on paper: memory and block evaluations."""
    from vlaforget_ros.bench.sizing import Settings, measure
    from vlaforget_ros.policy.config import PolicyConfig
    from vlaforget_ros.policy.openvla_7b import openvla_7b_config

    tiny = PolicyConfig.model_validate_json((models_directory() / "tiny" / "config.json").read_text())
    config = openvla_7b_config(next(iter(tiny.norm_stats.values())))
    settings = Settings(frames, batch, micro_batch, blocks, rank=rank)
    show(measure(config, settings), json_path, "OpenVLA-7B, language/action stage, computed from shapes")


@app.command()
def swap(
    json_path: Path | None = _JSON,
    base: Path | None = _BASE,
    instruction: str = typer.Option("open the faucet", help="One that the policy knows."),
    repeats: int = typer.Option(200, min=10, help="Timed swaps, and timed inferences of each kind."),
    seed: int = typer.Option(0, help="Of the random adapters and the image."),
    device: str = typer.Option("cpu", help="cpu or cuda."),
    inferences: int = typer.Option(5000, min=100, help="With a swap every 20 ms, and as many without."),
    cycles: int = typer.Option(1000, min=20, help="Swaps over 20 adapters, for the growth of memory."),
    changes: int = typer.Option(
        200, min=0, help="Changes on a model of 200 million parameters beside PEFT's; 0: none, 2 GB less."
    ),
    trials: int = typer.Option(
        100, min=0, help="Rollbacks in the running graph at 10 Hz; 0: none, needs no ROS."
    ),
    out: Path | None = typer.Option(
        None, help="New folder for logs of the graph; under runs/bench without it."
    ),
) -> None:
    """Swapping adapters: flips beside PEFT's own calls, outputs and memory under load, rollbacks of a moving arm."""
    from dataclasses import asdict

    import torch

    from vlaforget_ros.bench.swap import Load, measure
    from vlaforget_ros.policy.policy import VlaPolicy

    torch.set_num_threads(1)
    if trials:
        from vlaforget_ros.nodes.start import require_ros

        # Said now, not after minutes of other figures.
        require_ros()
    base = base or models_directory() / "tiny"
    with bar("swaps", parts=True) as update:

        def told(what: str, done: int, total: int) -> None:
            update(done, total, what)

        load = Load(inferences, cycles, changes)
        document = measure(VlaPolicy.load(base, device), instruction, repeats, seed, load, told)
    if trials:
        from vlaforget_ros.bench.rollback import measure as rollbacks

        folder = out or Path("runs/bench") / f"swap-{_now()}"
        folder.mkdir(parents=True, exist_ok=True)
        with bar("rollbacks") as update_trials:
            found = rollbacks(base.resolve(), folder.resolve(), trials, update_trials, lambda text: None)
        document["figures"] += [asdict(figure) for figure in found]
    show(document, json_path, "swapping adapters of a serving policy")


@app.command()
def ticks(
    json_path: Path | None = _JSON,
    base: Path | None = _BASE,
    out: Path | None = typer.Option(None, help="Working folder; a new one under runs/bench when not given."),
    episodes: int = typer.Option(3, min=1, help="Episodes of each retained task."),
    first_seed: int = typer.Option(0, min=0, help="Evaluation seeds from here."),
) -> None:
    """Live nodes at 10 Hz of the wall clock: ticks missed by the policy, and success when the arm does not wait."""
    from vlaforget_ros.nodes.start import require_ros

    require_ros()
    from vlaforget_ros.bench.ticks import measure

    folder = out or Path("runs/bench") / f"ticks-{_now()}"
    folder.mkdir(parents=True, exist_ok=True)
    with bar("rollouts", "episodes") as update:
        document = measure(
            (base or models_directory() / "tiny").resolve(),
            folder.resolve(),
            episodes,
            first_seed,
            update,
            lambda text: None,
        )
    show(document, json_path, "the demo graph at a fixed rate of 10 Hz")


@app.command()
def compare(
    first: Path = typer.Argument(..., exists=True, dir_okay=False, help="Result file (JSON)."),
    second: Path = typer.Argument(..., exists=True, dir_okay=False, help="Another one."),
) -> None:
    """Two result files side by side."""
    from vlaforget_ros.cli.output import console, plain_table

    documents = [json.loads(path.read_text()) for path in (first, second)]
    values = [{f["name"]: f["value"] for f in document["figures"]} for document in documents]
    rows = [
        [name, *(f"{side[name]:.4g}" if name in side else "" for side in values)]
        for name in dict.fromkeys([*values[0], *values[1]])
    ]
    console.print(plain_table(["figure", first.name, second.name], rows))


def _now() -> str:
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
