"""The process an edit runs in.

``python -m vlaforget_ros.unlearning.child --request FILE --out DIR [--resume] [--store DIR] [--share S]
[--own-weights]`` prints one JSON object a line: a ``weights`` event where base weights are shared or copied,
``progress`` events, then one ``done`` or ``error`` event. SIGTERM (or SIGINT) cancels; the process then exits with
status 1 after an ``error`` event with code 305, its finished stages kept.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from vlaforget_ros.errors import VlaForgetError
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.unlearning import output
from vlaforget_ros.unlearning.base import base_of
from vlaforget_ros.unlearning.contradictions import require_base
from vlaforget_ros.unlearning.edit import EditResult, EditSettings, edit
from vlaforget_ros.unlearning.guard import Guard, coded_memory_errors, peak_mb
from vlaforget_ros.unlearning.lora import folded
from vlaforget_ros.unlearning.parent import parent_of
from vlaforget_ros.unlearning.progress import Progress
from vlaforget_ros.unlearning.records import RECORD_FILE
from vlaforget_ros.unlearning.request import Request, read_request
from vlaforget_ros.unlearning.room import memory_limit
from vlaforget_ros.unlearning.sources import gather

Emit = Callable[[dict[str, Any]], None]
PROGRESS_PERIOD_S = 0.2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one edit; the exit status is 0 only after a ``done`` event."""
    parser = argparse.ArgumentParser(prog="python -m vlaforget_ros.unlearning.child", description=__doc__)
    parser.add_argument("--request", required=True, help="request file (YAML)")
    parser.add_argument("--out", required=True, type=Path, help="folder of the edit")
    parser.add_argument("--resume", action="store_true", help="go on from finished stages")
    parser.add_argument("--store", type=Path, help="adapter store, for start_from")
    parser.add_argument(
        "--share", type=_share, default=1.0, help="of the time that the edit may work, up to 1"
    )
    parser.add_argument(
        "--own-weights", action="store_true", help="load base weights also where a policy lends its own"
    )
    options = parser.parse_args(arguments)
    cancel = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: cancel.set())
    try:
        request = read_request(options.request)
        done = run(
            request,
            options.out,
            options.resume,
            options.store,
            cancel.is_set,
            _emit,
            options.share,
            not options.own_weights,
        )
    except VlaForgetError as error:
        _emit({"event": "error", "code": int(error.code), "message": str(error)})
        return 1
    _emit(done)
    return 0


def run(
    request: Request,
    out: Path,
    resume: bool,
    store: Path | None,
    cancelled: Callable[[], bool],
    emit: Emit,
    share: float = 1.0,
    borrow: bool = False,
) -> dict[str, Any]:
    """An edit from request to files.

    Args:
        request: what to do.
        out: folder of the edit.
        resume: go on from finished stages.
        store: adapter store, for ``start_from``.
        cancelled: whether somebody asked to stop.
        emit: gets the events.
        share: of the time that it may work.
        borrow: base weights from a policy that serves them on the same device, where they would be a copy.

    Returns:
        the ``done`` event.

    Raises:
        VlaForgetError: with the code of whatever stopped it.
    """
    torch.set_num_threads(request.threads)
    torch.use_deterministic_algorithms(True)
    # cuBLAS reads it before its first product; without it older versions of PyTorch refuse products in this mode.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    require_base(request.base)
    memory_mb = memory_limit(Path(request.base), request.budget.memory_mb)
    guard = Guard(request.budget.seconds, memory_mb, cancelled, share=share)
    limiter = _Limiter(emit)
    limiter.doing("loading the base weights")
    with coded_memory_errors(), base_of(request, borrow) as base:
        guard.lost = base.lost
        if base.message:
            emit({"event": "weights", "shared": base.shared, "lender": base.lender, "message": base.message})
        return _run(request, base.policy, out, resume, store, guard, limiter)


class _Limiter:
    """Passes on the first of each kind in a round and otherwise at most a few a second: feedback, not a log."""

    def __init__(self, emit: Emit) -> None:
        self._emit, self._last, self._kind = emit, 0.0, ("", 0, "")
        self._step: dict[str, Any] = {}

    def progress(self, progress: Progress) -> None:
        """A step was made."""
        self._step = asdict(progress)
        self._tell({})

    def doing(self, what: str) -> None:
        """Something else goes on; what stands behind a colon is how far it is."""
        self._tell({"losses": {}, "peak_mb": round(peak_mb(), 1), "doing": what})

    def _tell(self, more: dict[str, Any]) -> None:
        event = {"event": "progress", **self._step, **more}
        now, what = time.monotonic(), str(event.get("doing", "")).partition(":")[0]
        kind = (event.get("stage", ""), event.get("round", 0), what)
        if kind == self._kind and now - self._last < PROGRESS_PERIOD_S:
            return
        self._last, self._kind = now, kind
        self._emit(event)


def _run(
    request: Request,
    policy: VlaPolicy,
    out: Path,
    resume: bool,
    store: Path | None,
    guard: Guard,
    limiter: _Limiter,
) -> dict[str, Any]:
    parent = parent_of(request, policy.base_digest, store)
    guard.check()
    limiter.doing("reading the bags")
    with folded(policy.model, parent):
        gathered = gather(request, policy)
    identity = {"request": request.digest, "base": policy.base_digest, "threads": str(request.threads)}
    settings = EditSettings(request.make_method(policy.codec.ordered), request.gates, request.seed, identity)
    result = edit(
        policy, gathered.data, settings, out, guard, limiter.progress, resume, parent, limiter.doing
    )
    result = replace(result, remarks=(*gathered.remarks, *result.remarks))
    parent_digest = parent.digest if parent is not None else ""
    provenance = output.provenance_of(
        result, request, policy.base_digest, parent_digest, gathered.data.digests()
    )
    guard.require_weights()
    output.write(out, result, request, provenance, gathered.notes)
    return _done(result, out, provenance.model_dump(mode="json"))


def _done(result: EditResult, out: Path, provenance: dict[str, Any]) -> dict[str, Any]:
    metrics = {
        **output.metrics_of(result),
        "edit_seconds": round(result.seconds, 2),
        "edit_peak_mb": round(result.peak_mb, 1),
        "adapter_mb": result.weights.bytes / 1e6,
        "gates_passed": float(result.gates_passed),
    }
    return {
        "event": "done",
        "directory": str(out / output.ADAPTER_FOLDER),
        "metrics": metrics,
        "report": str(out / RECORD_FILE),
        "remarks": list(result.remarks),
        "provenance": provenance,
    }


def _share(text: str) -> float:
    value = float(text)
    if not 0.0 < value <= 1.0:
        raise argparse.ArgumentTypeError(f"a share lies above 0 and up to 1, not {text}")
    return value


def _emit(event: dict[str, Any]) -> None:
    print(json.dumps(event), flush=True)


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    # Worker threads of native libraries must not keep a finished edit alive.
    os._exit(status)
