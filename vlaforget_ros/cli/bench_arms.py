"""``vlaforget bench arms``."""

from __future__ import annotations

from pathlib import Path

import typer

from vlaforget_ros.cli.output import bar, show
from vlaforget_ros.paths import models_directory


def register(app: typer.Typer) -> None:
    """Add the command to ``vlaforget bench``."""
    app.command()(arms)


def arms(
    json_path: Path | None = typer.Option(None, "--json", help="Write the figures here as well."),
    base: Path | None = typer.Option(
        None, "--base", help="Checkpoint folder; the embedded policy without it."
    ),
    instruction: str = typer.Option("open the faucet", help="One that the policy knows."),
    counts: str = typer.Option("2,4", "--arms", help="Numbers of arms, with commas."),
    rounds: int = typer.Option(100, min=3, help="Inferences of each arm, both ways, in turns."),
    large: bool = typer.Option(True, help="Also a random model of 200 million parameters; takes 2 GB."),
    device: str = typer.Option("cpu", help="cpu or cuda."),
    threads: int = typer.Option(1, min=1, help="CPU threads of an inference."),
    seed: int = typer.Option(0, help="Of the random adapters and the images."),
) -> None:
    """Several arms on one model: a batch in which each row has its own adapter, beside one arm after the other.

    Ratios are the time in turns over the time together: what one process for all arms buys.

    Example: vlaforget bench arms --arms 2 --no-large --rounds 20
    """
    import torch

    from vlaforget_ros.bench import swap, swap_load
    from vlaforget_ros.bench.arms import Kind, measure
    from vlaforget_ros.policy.policy import VlaPolicy

    torch.set_num_threads(threads)
    wanted = [int(count) for count in counts.split(",")]
    kinds = [Kind("", VlaPolicy.load(base or models_directory() / "tiny", device), instruction, swap.RANK)]
    if large:
        policy = swap_load.large_policy()
        policy.model.to(device)
        kinds.append(Kind("_large", policy, "open the faucet", swap_load.LARGE_RANK))
    with bar("arms", parts=True) as update:
        document = measure(kinds, wanted, rounds, seed, lambda what, done, total: update(done, total, what))
    show(document, json_path, "several arms on one model, each with its own adapter")
