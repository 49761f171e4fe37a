"""``vlaforget episodes map``: the first draft of a mapping file."""

from __future__ import annotations

from pathlib import Path

import typer

from vlaforget_ros.cli.output import console, errors


def register(app: typer.Typer) -> None:
    """Add the command to ``app``, that of ``vlaforget episodes``."""
    app.command("map")(propose)


def propose(
    bag: Path = typer.Argument(..., help="rosbag2 folder, or a .mcap or .db3 file."),
    out: Path | None = typer.Option(
        None, "--out", help="File to write; it must not exist. Printed by default."
    ),
) -> None:
    """Propose what the topics of somebody else's bag mean: image, state, action, instruction, outcome.

    The proposal is guessed from names, types and rates, and lists every topic of the bag. Read it, correct it, and give
    it to `--mapping` of `vlaforget episodes index`, or to `mapping:` of a request; docs/mapping.md explains each field.

    Example: `vlaforget episodes map runs/teleop_7 --out mapping.yaml`
    """
    from vlaforget_ros.episodes.mapped.proposal import propose_mapping
    from vlaforget_ros.errors import ErrorCode, UnlearningError

    text = propose_mapping(bag)
    if out is None:
        console.out(text, end="", highlight=False)
        return
    try:
        with out.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UnlearningError(
            ErrorCode.UNLEARNING_BAD_REQUEST,
            f"mapping file cannot be written: {error.strerror}",
            value=str(out),
            limit="a new file in a folder that exists",
            remedy="name another file with --out",
        ) from error
    errors.print(f"written: {out}", highlight=False)
