"""``vlaforget models``, ``inspect`` and ``verify-reference``: which policies there are, and what a checkpoint is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from vlaforget_ros.cli.output import console, plain_table, print_json
from vlaforget_ros.paths import checkpoint_directory

# What is known about each kind of policy; docs/models.md says how it was verified.
KINDS = (
    ("tiny", "1.4 M", "visual, projector, language", "ships with the package; served, edited"),
    (
        "openvla_7b",
        "7.5 B",
        "visual, projector, language",
        "released layout is loaded; agrees with upstream on small random weights",
    ),
    (
        "openvla_oft",
        "7.7 B",
        "visual, projector, language",
        "released layout is loaded; agrees with upstream on small random weights",
    ),
    (
        "pi0_fast",
        "2.9 B",
        "visual, projector, language",
        "lerobot's layout is loaded; agrees with lerobot on small random weights",
    ),
)


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command()(models)
    app.command()(inspect)
    app.command("verify-reference")(verify_reference)


def models(json_output: bool = typer.Option(False, "--json", help="Print JSON.")) -> None:
    """The kinds of policy: size, components that an edit may change, and what this version does with them."""
    columns = ["model", "parameters", "components", "state"]
    if json_output:
        print_json([dict(zip(columns, row, strict=True)) for row in KINDS])
        return
    console.print(plain_table(columns, KINDS))


def inspect(
    checkpoint: str = typer.Argument(..., help="Folder of a checkpoint, or the name of one that ships."),
    heads: str = typer.Option(
        "", help="Attention heads of each vision tower, such as 16,16, where no file says so."
    ),
    json_output: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """What a checkpoint is, before anything loads it: layout, sizes, components, data sets, problems.

    Only config.json and the headers of the weights are read, so that it takes a second for any size. Ends with 1 where
    something would keep it from being served.
    """
    from vlaforget_ros.policy.inspection import inspect as look

    found = look(checkpoint_directory(checkpoint), _numbers(heads))
    if json_output:
        print_json(found)
    else:
        console.print(plain_table(["", ""], _rows(found), checkpoint))
        for problem in found["problems"]:
            console.print(f"problem: {problem}", highlight=False, soft_wrap=True)
    if found["problems"]:
        raise typer.Exit(1)


def verify_reference(
    directory: Path = typer.Argument(
        ..., help="Checkpoint folder with reference.json and reference.safetensors."
    ),
    device: str = typer.Option("cpu", help="Where to compute."),
    heads: str = typer.Option("", help="Attention heads of each vision tower, where no file says so."),
    json_output: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Compare a checkpoint with recorded outputs of the upstream implementation; ends with 1 where they differ.

    Features, logits, the labelled loss, greedy tokens, actions, and that different images give different actions.
    """
    from vlaforget_ros.policy.reference import verify

    found = verify(directory, device, _numbers(heads))
    agrees = all(difference.agrees for difference in found)
    if json_output:
        print_json({"agrees": agrees, "differences": [{**vars(d), "agrees": d.agrees} for d in found]})
    else:
        rows = [
            [str(d.case), d.what, f"{d.value:.3g}", f"{d.limit:g}", "yes" if d.agrees else "NO"]
            for d in found
        ]
        console.print(
            plain_table(["case", "difference in", "value", "limit", "agrees"], rows, str(directory))
        )
    if not agrees:
        raise typer.Exit(1)


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise typer.BadParameter("give whole numbers with commas between them, such as 16,16") from error


def _chunk(found: Mapping[str, Any]) -> str:
    state = f"{found['state']} numbers" if found["state"] else "none"
    return f"{found['chunk']} actions ({found['actions']}); cameras: {found['cameras']}; state of the robot: {state}"


def _rows(found: Mapping[str, Any]) -> list[list[str]]:
    parts = found["components"]
    towers = "; ".join(
        f"{t['used']} of {t['blocks']} blocks used, width {t['width']}, {t['heads']} heads, {t['patches']} patches"
        for t in parts["visual"]["towers"]
    )
    first, last = found["action_tokens"]
    return [
        ["name", found["name"]],
        ["layout", found["layout"]],
        ["parameters", f"{found['parameters']:,}"],
        ["weights", f"{found['bytes'] / 1e6:,.1f} MB in {found['files']} file(s)"],
        ["visual", f"{parts['visual']['parameters']:,}: {towers}"],
        ["projector", f"{parts['projector']['parameters']:,}: {parts['projector']['layers']} layers"],
        [
            "language",
            f"{parts['language']['parameters']:,}: {parts['language']['blocks']} blocks, "
            f"width {parts['language']['width']}",
        ],
        *([["head", f"{parts['head']['parameters']:,}"]] if "head" in parts else []),
        *([["chunk", _chunk(found)]] if "chunk" in found else []),
        ["images", f"{found['image_size']} px"],
        ["action tokens", f"{first}..{last}"],
        ["data sets", ", ".join(f"{key} ({dims} dimensions)" for key, dims in found["data_sets"].items())],
    ]
