"""``vlaforget adapters``: look into the store and move its aliases, without ROS."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import typer

from vlaforget_ros.cli.output import console, event_table, plain_table, print_json

app = typer.Typer(no_args_is_help=True, help="The content-addressed store of adapters.")

_STORE = typer.Option(Path("runs/adapters"), "--store", help="Folder of the store.")
_JSON = typer.Option(False, "--json", help="Print JSON.")


@app.command("list")
def list_(store: Path = _STORE, json: bool = _JSON) -> None:
    """All adapters, oldest first, with their aliases."""
    from vlaforget_ros.adapters.store import AdapterStore
    from vlaforget_ros.policy.serving import adapter_info

    opened = AdapterStore(store)
    aliases = opened.aliases()
    infos = [adapter_info(manifest, aliases, False) for manifest in opened.manifests()]
    if json:
        print_json([asdict(info) for info in infos])
        return
    rows = [
        [
            info.digest[:12],
            info.name,
            info.method,
            " ".join(info.components),
            str(info.rank),
            f"{info.bytes / 1e6:.2f}",
            "passed" if info.gates_passed else "failed",
            " ".join(info.aliases),
            info.created.strftime("%Y-%m-%d %H:%M"),
        ]
        for info in infos
    ]
    columns = ["digest", "name", "method", "components", "rank", "MB", "gates", "aliases", "created"]
    console.print(plain_table(columns, rows, f"{len(rows)} adapter(s) in {store}"))


@app.command()
def show(adapter: str, store: Path = _STORE) -> None:
    """The manifest of one adapter: ADAPTER is an alias, name, digest or unique prefix of 8 or more."""
    from vlaforget_ros.adapters.store import AdapterStore

    opened = AdapterStore(store)
    digest = opened.resolve(adapter)
    if not digest:
        console.print("the base model: nothing is stored for it")
        return
    print_json(opened.manifest(digest).model_dump(mode="json"))


@app.command()
def verify(store: Path = _STORE) -> None:
    """Check every byte of every adapter against its digest."""
    from vlaforget_ros.adapters.store import AdapterStore
    from vlaforget_ros.errors import AdapterError

    opened = AdapterStore(store)
    broken = 0
    for digest in opened.digests():
        try:
            opened.load(digest)
            console.print(f"{digest[:12]} ok")
        except AdapterError as error:
            broken += 1
            console.print(f"{digest[:12]} [bold red]broken[/]: {error}", highlight=False)
    if broken:
        raise typer.Exit(1)


@app.command()
def alias(name: str, adapter: str, store: Path = _STORE) -> None:
    """Point alias NAME (for example stable) at ADAPTER; `base` is the base model."""
    from vlaforget_ros.adapters.store import AdapterStore

    opened = AdapterStore(store)
    digest = opened.resolve(adapter)
    opened.alias(name, digest)
    console.print(f"{name} → {digest[:12] or 'base'}")


@app.command()
def history(store: Path = _STORE, json: bool = _JSON) -> None:
    """What happened in the store: added, swapped, rolled back, aliased. `vlaforget history` has the chains, too."""
    from vlaforget_ros.adapters.store import AdapterStore

    events = AdapterStore(store).history()
    if json:
        print_json(events)
        return
    console.print(event_table(events))
