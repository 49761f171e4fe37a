"""``vlaforget history``: which edit was made on top of which, and what the robot did with them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.text import Text
from rich.tree import Tree

from vlaforget_ros.cli.output import console, event_table, print_json

if TYPE_CHECKING:
    from vlaforget_ros.adapters.lineage import Link


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(history)


def history(
    adapter: str = typer.Argument(
        "", help="Alias, name, digest or prefix of 8 or more; all chains without it."
    ),
    store: Path = typer.Option(Path("runs/adapters"), "--store", help="Folder of the store."),
    json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """The chain of edits from the base model to ADAPTER, and what happened to its adapters.

    Rank and gates of each adapter are those of the whole chain below it: an edit that starts from an adapter holds it.
    Events are additions, swaps, rollbacks and moves of aliases, with their times (UTC).
    """
    from vlaforget_ros.adapters.lineage import chain, chains, events_of
    from vlaforget_ros.adapters.store import AdapterStore

    opened = AdapterStore(store)
    events = opened.history()
    if adapter:
        digest = opened.resolve(adapter)
        links = chain(opened, digest)
        events = events_of(events, [link.manifest.digest for link in links] or [""])
    else:
        links = chains(opened)
    if json:
        print_json({"adapters": [link.row() for link in links], "events": events})
        return
    if not links:
        console.print("the base model" if adapter else f"no adapters in {store}", highlight=False)
    for tree in _trees(links):
        console.print(tree)
    console.print(event_table(events))


def _trees(links: Sequence[Link]) -> list[Tree]:
    """One tree for each base model."""
    roots: dict[str, Tree] = {}
    for link in links:
        base = link.manifest.base_digest
        if link.depth == 0:
            path = [roots.setdefault(base, Tree(f"base {base[:12]}"))]
        path = path[: link.depth + 1]
        path.append(path[-1].add(_label(link)))
    return list(roots.values())


def _label(link: Link) -> Text:
    core = link.manifest.core
    label = Text.assemble((core.name, "bold"), f" {link.manifest.digest[:12]}")
    label.append(f"  {' '.join(link.aliases)}" if link.aliases else "", style="cyan")
    gates = {
        "passed": ("gates passed", "green"),
        "failed": ("gates failed", "red"),
        "none": ("no gates", "yellow"),
    }[link.manifest.gates]
    created = f"{link.manifest.created:%Y-%m-%d %H:%M}"
    label.append(f"\n{core.method}, rank {core.rank} in {len(core.modules)} linear layer(s), {created}, ")
    label.append(*gates)
    parts = [", ".join(core.components), ", ".join(core.layers)]
    label.append("\nedits " + ": ".join(part for part in parts if part) if any(parts) else "")
    why = " ".join(
        part for part in (core.reason, f"(asked by {core.requester})" if core.requester else "") if part
    )
    label.append(f"\n{why}" if why else "")
    if link.missing_parent:
        label.append(
            f"\nmade from {link.missing_parent[:12]}, which is no longer in the store", style="yellow"
        )
    return label
