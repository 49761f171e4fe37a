"""``vlaforget adapters``: look into the store and move its aliases, without ROS."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import typer

from vlaforget_ros.cli import adapter_signing
from vlaforget_ros.cli.adapter_signing import TRUST, open_store
from vlaforget_ros.cli.output import console, event_table, plain_table, print_json

app = typer.Typer(no_args_is_help=True, help="The content-addressed store of adapters.")

_STORE = typer.Option(Path("runs/adapters"), "--store", help="Folder of the store.")
_JSON = typer.Option(False, "--json", help="Print JSON.")

adapter_signing.register(app)


@app.command("list")
def list_(store: Path = _STORE, json: bool = _JSON, trust: Path | None = TRUST) -> None:
    """All adapters, oldest first, with their aliases and who signed them."""
    from vlaforget_ros.policy.serving import adapter_info

    opened = open_store(store, trust)
    aliases = opened.aliases()
    manifests = opened.manifests()
    infos = [adapter_info(manifest, aliases, False, opened.signer(manifest.digest)) for manifest in manifests]
    if json:
        print_json(
            [
                {**asdict(info), "gates": manifest.gates}
                for info, manifest in zip(infos, manifests, strict=True)
            ]
        )
        return
    rows = [
        [
            info.digest[:12],
            info.name,
            info.method,
            " ".join(info.components),
            str(info.rank),
            f"{info.bytes / 1e6:.2f}",
            manifest.gates,
            " ".join(info.aliases),
            info.created.strftime("%Y-%m-%d %H:%M"),
        ]
        for info, manifest in zip(infos, manifests, strict=True)
    ]
    columns = ["digest", "name", "method", "components", "rank", "MB", "gates", "aliases", "created"]
    if any(info.signer for info in infos):
        columns.insert(7, "signer")
        for row, info in zip(rows, infos, strict=True):
            row.insert(7, info.signer)
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
def add(
    folder: Path = typer.Argument(..., exists=True, file_okay=False, help="Adapter folder (PEFT format)."),
    base: str = typer.Option(
        ..., help="Checkpoint it was trained on: a folder, or the name of one that ships."
    ),
    name: str = typer.Option(..., help="Name in the store."),
    method: str = typer.Option("external", help="How it was made, for the record."),
    store: Path = _STORE,
) -> None:
    """Take an adapter that was trained elsewhere into the store.

    Plain LoRA as PEFT saves it, for example of OpenVLA's fine-tuning. It must fit the layers of the base. No gate has
    judged it: it can be swapped in by name or digest, but cannot become `stable`.
    """
    from vlaforget_ros.adapters.peft_format import read_peft
    from vlaforget_ros.adapters.store import AdapterStore
    from vlaforget_ros.paths import checkpoint_directory
    from vlaforget_ros.policy import checkpoint, parts
    from vlaforget_ros.policy.shards import Shards

    directory = checkpoint_directory(base)
    weights = read_peft(folder)
    weights.check_fits(Shards.open(directory).linear_layers())
    provenance = {
        "name": name,
        "method": method,
        "base_digest": checkpoint.digest(directory),
        "components": parts.components(weights.modules),
        "layers": parts.layers(weights.modules),
    }
    manifest = AdapterStore(store).add_weights(weights, provenance)
    console.print(f"{name} → {manifest.digest[:12]}, {len(weights.modules)} layers, rank {weights.rank}")


@app.command()
def alias(
    name: str,
    adapter: str,
    store: Path = _STORE,
    trust: Path | None = TRUST,
    rollback: bool = typer.Option(
        False, "--rollback", help="Go back to an older adapter that this alias named before."
    ),
) -> None:
    """Point alias NAME (for example stable) at ADAPTER; `base` is the base model.

    With a trust policy the signers that it requires for this alias must have signed, and only --rollback moves it back.
    """
    opened = open_store(store, trust)
    digest = opened.resolve(adapter)
    opened.alias(name, digest, rollback=rollback)
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
