"""``vlaforget adapters export | import``: adapters to and from robots, one file each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from vlaforget_ros.cli.adapter_care import adapter_digest
from vlaforget_ros.cli.output import Update, bar, console, plain_table, print_json

if TYPE_CHECKING:
    from vlaforget_ros.adapters.transport import Progress

_STORE = typer.Option(Path("runs/adapters"), "--store", help="Folder of the store.")
_JSON = typer.Option(False, "--json", help="Print JSON.")
_LONG = 4_000_000


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command()(export)
    app.command("import")(import_)


def export(adapter: str, destination: str, store: Path = _STORE, json: bool = _JSON) -> None:
    """Write ADAPTER, with its manifest, evidence and signature, as one file to DESTINATION.

    DESTINATION is a path, a folder, or a URL such as s3://bucket/folder/ or hf://datasets/me/adapters/fix.tar. The file
    is there as a whole or not at all.
    """
    from vlaforget_ros.adapters.exchange import export_adapter
    from vlaforget_ros.adapters.store import AdapterStore

    opened = AdapterStore(store)
    digest = adapter_digest(opened, adapter)
    with _progress("export") as update:
        written = export_adapter(opened, digest, destination, update)
    document = {
        "digest": written.manifest.digest,
        "name": written.manifest.name,
        "destination": written.destination,
        "bytes": written.bytes,
        "signed": written.signed,
    }
    _say(document, "exported", json)


def import_(source: str, store: Path = _STORE, json: bool = _JSON) -> None:
    """Take the adapter of a bundle into the store; everything is checked before anything enters it.

    SOURCE is a path or a URL (file, https, s3, gs, hf ...). A download that was interrupted goes on where it stopped.
    No alias moves: `vlaforget adapters alias` or `vlaforget swap` put the adapter to use.
    """
    from vlaforget_ros.adapters.exchange import import_adapter
    from vlaforget_ros.adapters.store import AdapterStore

    with _progress("import") as update:
        taken = import_adapter(AdapterStore(store), source, update)
    document = {
        "digest": taken.manifest.digest,
        "name": taken.manifest.name,
        "source": taken.source,
        "bytes": taken.bytes,
        "new": taken.new,
        "signed": taken.signed,
        "gates_passed": taken.manifest.gates_passed,
        "evidence": sorted(taken.manifest.evidence),
        "evidence_kept": list(taken.evidence_kept),
        "missing_parent": taken.missing_parent,
    }
    _say(document, "imported" if taken.new else "imported before", json)


@contextmanager
def _progress(title: str) -> Iterator[Progress]:
    """A bar, if there is enough to do that somebody waits for it."""
    with ExitStack() as stack:
        shown: list[Update] = []

        def update(done: int, total: int) -> None:
            if total < _LONG:
                return
            if not shown:
                shown.append(stack.enter_context(bar(title, "kB")))
            shown[0](-(-done // 1000), -(-total // 1000))

        yield update


def _say(document: dict[str, object], title: str, json: bool) -> None:
    if json:
        print_json(document)
        return
    rows = [[name.replace("_", " "), _text(name, value)] for name, value in document.items()]
    console.print(plain_table(["", "adapter"], rows, title))


def _text(name: str, value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(value) or "none"
    return str(value)[:12] if name in ("digest", "missing_parent") else str(value)
