"""What a finished edit leaves: a PEFT adapter, its provenance for the store, the record for the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vlaforget_ros import figures
from vlaforget_ros.adapters.manifest import Provenance
from vlaforget_ros.adapters.peft_format import write_peft
from vlaforget_ros.unlearning.edit import EditResult
from vlaforget_ros.unlearning.records import RECORD_FILE
from vlaforget_ros.unlearning.request import Request

ADAPTER_FOLDER, PROVENANCE_FILE = "adapter", "provenance.json"


def metrics_of(result: EditResult) -> dict[str, float]:
    """The figures of an edit, by name; all offline, on held-out frames."""
    before = {f"{name}_before": v for name, v in result.before.metrics.earlier_row().items()}
    return {
        **result.after.metrics.row(),
        **before,
        "undesired_before": result.before.undesired,
        "undesired_after": result.after.undesired,
    }


def provenance_of(
    result: EditResult, request: Request, base_digest: str, parent_digest: str, datasets: dict[str, str]
) -> Provenance:
    """What the store's manifest needs to know; nothing in it depends on the machine's speed."""
    return Provenance(
        name=request.name,
        method=request.method,
        base_digest=base_digest,
        parent_digest=parent_digest,
        components=result.components,
        layers=result.layers,
        request_sha256=request.digest,
        gates_passed=result.gates_passed,
        metrics=metrics_of(result),
        seeds=(request.seed,),
        versions=figures.versions(),
        datasets=datasets,
        reason=request.reason,
        requester=request.requester,
    )


def write(
    directory: Path,
    result: EditResult,
    request: Request,
    provenance: Provenance,
    notes: list[str],
) -> None:
    """Write ``adapter/``, ``provenance.json`` and, as the sign that all is there, ``edit.json``."""
    adapter = directory / ADAPTER_FOLDER
    adapter.mkdir(parents=True, exist_ok=True)
    write_peft(result.weights, adapter)
    _write_json(directory / PROVENANCE_FILE, provenance.model_dump(mode="json"))
    record: dict[str, Any] = {
        "request": request.model_dump(mode="json"),
        "request_sha256": request.digest,
        "provenance": provenance.model_dump(mode="json"),
        "sources": notes,
        "hardware": figures.hardware(),
        **result.row(),
    }
    _write_json(directory / RECORD_FILE, record)


def _write_json(path: Path, document: dict[str, Any]) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)
