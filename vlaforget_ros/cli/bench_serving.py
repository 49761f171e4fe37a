"""``vlaforget bench inference`` and ``bench beside``: the engine beside the library's path, and beside an edit."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Literal

import typer

from vlaforget_ros.cli.output import bar, show
from vlaforget_ros.paths import models_directory

_JSON = typer.Option(None, "--json", help="Write the figures here as well.")


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command()(inference)
    app.command()(beside)


def inference(
    json_path: Path | None = _JSON,
    model: Literal["openvla_7b", "openvla_oft", "pi0_fast"] = typer.Option(
        "openvla_7b", help="Kind of policy."
    ),
    size: Literal["small", "full"] = typer.Option(
        "small", help="Every part small, or as released (15 GB, pi0_fast 7 GB)."
    ),
    repeats: int = typer.Option(30, min=3, help="Timed actions of each path."),
    device: str = typer.Option("cpu", help="cpu or cuda."),
    threads: int = typer.Option(1, min=1, help="CPU threads."),
    seed: int = typer.Option(0, help="Of weights, adapter and images."),
    folder: Path | None = typer.Option(
        None, help="Where to put the random checkpoint; the system's default."
    ),
    compiled: bool = typer.Option(
        False,
        "--compile",
        help="Compiled functions as well (parameter compile of the policy node): minutes more.",
    ),
    rounded: bool = typer.Option(True, help="Weights in int8 and nf4 as well: both are further copies."),
    dtype: Literal["default", "float32", "bfloat16"] = typer.Option(
        "default", help="Of the weights; float32 on the CPU and bfloat16 on a GPU unless given."
    ),
    blocks: int = typer.Option(
        0, min=0, help="Language blocks, from the top, that the adapter touches; 0: every layer."
    ),
) -> None:
    """Actions per second of the serving engine beside the library's own path, and what loading takes.

    Example: vlaforget bench inference --model openvla_7b --compile --json inference.json
    """
    import torch

    from vlaforget_ros.bench.inference import Settings, measure

    torch.set_num_threads(threads)
    kind = None if dtype == "default" else getattr(torch, dtype)
    settings = Settings(model, size, device, repeats, seed, folder, compiled, rounded, kind, blocks)
    with bar("actions") as update:
        document = measure(settings, update)
    show(document, json_path, f"{model}, {size}: random weights and an adapter, on {device}")


def beside(
    json_path: Path | None = _JSON,
    model: Literal["tiny", "openvla_7b", "openvla_oft", "pi0_fast"] = typer.Option(
        "tiny", help="Kind of policy."
    ),
    size: Literal["small", "full"] = typer.Option(
        "small", help="But for tiny: every part small, or as released (15 GB, pi0_fast 7 GB)."
    ),
    shares: str = typer.Option("1,0.5", help="Shares of the time that the edit may work."),
    ticks: int = typer.Option(100, min=10, help="Inferences in each turn."),
    turns: int = typer.Option(3, min=1, help="How often each share is measured."),
    tick_s: float = typer.Option(0.1, min=0.001, help="Control period [s]."),
    device: str = typer.Option("cpu", help="cpu or cuda, for both."),
    dtype: Literal["stored", "bfloat16", "float16"] = typer.Option(
        "stored",
        help="But for tiny, of weights in memory: another one than stored is a copy, also on the CPU.",
    ),
    own_weights: bool = typer.Option(False, help="Let the edit hold a copy where it would share weights."),
    seed: int = typer.Option(0, help="Of images and batches."),
) -> None:
    """The policy's latency while an edit trains on the same machine, beside its latency alone; memory of both.

    shared_weights: 1 where the edit worked on the policy's weights, 0 where it mapped their files or had a copy.
    child_private_mb: what the edit's process alone held on the host. device_mb: what all hold on the GPU.
    """
    import torch

    from vlaforget_ros.bench.beside import INSTRUCTION, Settings, measure
    from vlaforget_ros.bench.random_release import released
    from vlaforget_ros.policy.options import set_options

    torch.set_num_threads(1)
    wanted = tuple(float(share) for share in shares.split(","))
    with ExitStack() as stack:
        base = models_directory() / "tiny"
        if model != "tiny":
            base = stack.enter_context(released(size, device, (INSTRUCTION,), seed, model=model)).directory
            set_options(base, dtype=dtype)
        update = stack.enter_context(bar("turns"))
        settings = Settings(base, device, wanted, ticks, turns, tick_s, 1, seed, not own_weights)
        document = measure(settings, update)
    show(document, json_path, f"latency of {model} beside an edit on {device}")
