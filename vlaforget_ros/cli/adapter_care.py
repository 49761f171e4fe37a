"""``vlaforget adapters remove | diff | gc``: what keeps a store small and its adapters told apart."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from vlaforget_ros.cli.output import console, plain_table, print_json

if TYPE_CHECKING:
    from vlaforget_ros.adapters.store import AdapterStore

_STORE = typer.Option(Path("runs/adapters"), "--store", help="Folder of the store.")
_JSON = typer.Option(False, "--json", help="Print JSON.")
_WIDEST = 60


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    for command in (remove, diff, gc):
        app.command()(command)


def adapter_digest(store: AdapterStore, reference: str) -> str:
    """Digest of a reference that must be an adapter. Raises AdapterError 100, for the base model as well."""
    from vlaforget_ros.errors import AdapterError, ErrorCode

    digest = store.resolve(reference)
    if not digest:
        raise AdapterError(
            ErrorCode.ADAPTER_UNKNOWN,
            "the base model is no adapter of the store",
            value=reference,
            remedy="name an adapter: `vlaforget adapters list`",
        )
    return digest


def remove(adapter: str, store: Path = _STORE, json: bool = _JSON) -> None:
    """Take ADAPTER out of the store; one that an alias names is refused. Its events stay in the history."""
    from vlaforget_ros.adapters.store import AdapterStore

    opened = AdapterStore(store)
    digest = adapter_digest(opened, adapter)
    opened.remove(digest)
    if json:
        print_json({"removed": digest})
        return
    console.print(f"{digest[:12]} removed")


def diff(left: str, right: str, store: Path = _STORE, json: bool = _JSON) -> None:
    """What differs between two adapters: the fields of their manifests, and their deltas layer by layer.

    Norms are Frobenius norms of the whole delta of a layer (alpha / rank B A), so adapters of different rank compare.
    """
    from vlaforget_ros.adapters.difference import difference
    from vlaforget_ros.adapters.store import AdapterStore

    opened = AdapterStore(store)
    found = difference(opened, adapter_digest(opened, left), adapter_digest(opened, right))
    if json:
        print_json(asdict(found))
        return
    names = [f"{digest[:12]} ({opened.manifest(digest).name})" for digest in (found.left, found.right)]
    fields = [[name, _short(first), _short(second)] for name, (first, second) in found.fields.items()]
    console.print(plain_table(["field", *names], fields, f"{len(fields)} field(s) differ"))
    rows = [
        [layer.layer, *(_figure(norm) for norm in (layer.left, layer.right, layer.difference))]
        for layer in found.layers
    ]
    columns = ["layer", *(f"|delta| of {name}" for name in names), "|difference|"]
    console.print(plain_table(columns, rows, f"{len(rows)} layer(s)"))


def gc(
    keep: int = typer.Option(50, min=0, help="Last events of the history whose adapters stay."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Only say what would be dropped."),
    store: Path = _STORE,
    json: bool = _JSON,
) -> None:
    """Drop adapters that no alias names, that none of those kept was made from, and that the history forgot.

    The adapters of the last swap or rollback stay in any case. Downloads that nobody goes on with are dropped as well.
    """
    from vlaforget_ros.adapters.cleaning import clean
    from vlaforget_ros.adapters.store import AdapterStore

    cleaned = clean(AdapterStore(store), keep, dry_run)
    if json:
        print_json(
            {
                "dry_run": dry_run,
                "dropped": [manifest.digest for manifest in cleaned.dropped],
                "kept": cleaned.kept,
                "broken": cleaned.broken,
                "partials": cleaned.partials,
                "freed_bytes": cleaned.freed,
            }
        )
        return
    rows = [
        [manifest.digest[:12], manifest.name, f"{manifest.size_bytes / 1e6:.2f}"]
        for manifest in cleaned.dropped
    ]
    verb = "would be dropped" if dry_run else "dropped"
    if rows:
        console.print(plain_table(["digest", "name", "MB"], rows, f"{len(rows)} adapter(s) {verb}"))
    for digest in cleaned.broken:
        console.print(f"{digest[:12]} [yellow]left[/]: its manifest cannot be read", highlight=False)
    downloads = f", {len(cleaned.partials)} download(s)" if cleaned.partials else ""
    freed = f"{cleaned.freed} bytes ({cleaned.freed / 1e6:.2f} MB)"
    console.print(f"{len(rows)} adapter(s){downloads} {verb}, {len(cleaned.kept)} kept, {freed} freed")


def _short(value: Any) -> str:
    text = "-" if value is None or value == "" else str(value)
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 3]}..."


def _figure(norm: float | None) -> str:
    return "-" if norm is None else f"{norm:.6g}"
