"""What a report is made from: the folder of a finished edit, and documents of what was measured on its adapter."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlaforget_ros.adapters.core import core_of
from vlaforget_ros.adapters.lora import LoraWeights
from vlaforget_ros.adapters.manifest import Provenance, core_digest, parse_provenance
from vlaforget_ros.adapters.peft_format import decode, read_files
from vlaforget_ros.adapters.store import AdapterStore
from vlaforget_ros.errors import ErrorCode, UnlearningError
from vlaforget_ros.report.pictures import Strip
from vlaforget_ros.unlearning.output import ADAPTER_FOLDER
from vlaforget_ros.unlearning.records import read_record


@dataclass(frozen=True)
class Material:
    """Everything that one report shows.

    Args:
        record: the edit's edit.json.
        weights: its adapter, with the digest that it has in a store.
        others: records of other edits of the same request.
        closed_loop: figures of rollouts with the adapter (:func:`vlaforget_ros.figures.document`), perhaps with
            ``gates``.
        attacks: the same of attacks on the adapter.
        strips: rollouts before and after the edit.
    """

    record: Mapping[str, Any]
    weights: LoraWeights
    others: Sequence[Mapping[str, Any]] = ()
    closed_loop: Mapping[str, Any] | None = None
    attacks: Mapping[str, Any] | None = None
    strips: Sequence[Strip] = ()


def read_material(
    folder: Path,
    against: Sequence[Path] = (),
    closed_loop: Path | None = None,
    attacks: Path | None = None,
    strips: Sequence[Strip] = (),
    store: Path | None = None,
) -> Material:
    """Read all of it.

    Args:
        folder: of the edit.
        against: folders of other edits of the same request.
        closed_loop: JSON file with the document, or with an object that has it under ``closed_loop``.
        attacks: the same with ``attacks``.
        strips: rollouts before and after.
        store: adapter store whose evidence is taken where no file is given; it need not have the adapter.

    Raises:
        UnlearningError: 300 for a folder without a finished edit, or a file that is no such document.
        AdapterError: 1xx where the adapter in the folder is unusable.
    """
    record = read_record(folder)
    weights = _read_adapter(folder / ADAPTER_FOLDER, parse_provenance(record["provenance"]))
    attached = _evidence(store, weights.digest)
    documents = {
        key: attached.get(key) if path is None else read_document(path, key, weights.digest)
        for key, path in (("closed_loop", closed_loop), ("attacks", attacks))
    }
    return Material(record, weights, [read_record(other) for other in against], **documents, strips=strips)


def _evidence(store: Path | None, digest: str) -> Mapping[str, dict[str, Any]]:
    """What was measured on an adapter of a store; nothing where there is no such store or adapter."""
    if store is None or not store.is_dir():
        return {}
    adapters = AdapterStore(store)
    return adapters.manifest(digest).evidence if digest in adapters.digests() else {}


def _read_adapter(folder: Path, provenance: Provenance) -> LoraWeights:
    files = read_files(folder)
    weights = decode(files)
    core = core_of(files, weights, provenance)
    return weights.with_digests(core_digest(core), core.base_digest)


def read_document(path: Path, key: str, digest: str) -> dict[str, Any]:
    """A document of figures from a JSON file, by itself or as the ``key`` of an adapter's evidence.

    Args:
        path: of the file.
        key: ``closed_loop`` or ``attacks``.
        digest: of the adapter that it must be about, where it names one (``adapter``).

    Raises:
        UnlearningError: 300 for anything else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        found = found.get(key, found)
        figures = [
            {"name": f["name"], "value": float(f["value"]), "unit": f["unit"]} for f in found["figures"]
        ]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise _no_document(path, key, f"{type(error).__name__}: {error}") from error
    if not figures:
        raise _no_document(path, key, "it holds no figures")
    if found.get("adapter") not in (None, digest):
        raise UnlearningError(
            ErrorCode.UNLEARNING_BAD_REQUEST,
            f"{path} was measured on another adapter",
            value=found["adapter"],
            limit=digest,
            remedy="give the figures of this edit's adapter",
        )
    return dict(found)


def _no_document(path: Path, key: str, why: str) -> UnlearningError:
    return UnlearningError(
        ErrorCode.UNLEARNING_BAD_REQUEST,
        f"no document of figures: {why}",
        value=str(path),
        limit=f"JSON with `figures`, each with name, value and unit, perhaps under `{key}`",
        remedy="give the file that the evaluation wrote",
    )
