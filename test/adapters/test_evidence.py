"""Evidence beside the manifest: attached later, outside the digest, and a failed gate in it blocks promotion."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vlaforget_ros.adapters import AdapterStore, LoraWeights, Manifest
from vlaforget_ros.errors import AdapterError, ErrorCode

MakeWeights = Callable[..., LoraWeights]
ROOT = Path(__file__).resolve().parents[2]
PASSED = {"name": "qrr_int8_max", "verdict": "passed", "value": 0.05, "limit": 0.1, "n": 7}
FAILED = {"name": "qrr_4bit_max", "verdict": "failed", "value": 0.4, "limit": 0.2}
UNMEASURED = {"name": "fts_share_min", "verdict": "not_measured", "value": None, "limit": 80.0}

# A child for each point of time at which the process may die while it attaches.
KILLED = """
import os, signal, sys
import torch
torch.set_num_threads(1)
from pathlib import Path
from vlaforget_ros.adapters import AdapterStore

store, digest = AdapterStore(Path(sys.argv[1])), sys.argv[2]
for point in range(20):
    child = os.fork()
    if child == 0:
        left, synced = point, os.fsync
        def fsync(descriptor):
            global left
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            synced(descriptor)
        os.fsync = fsync
        store.attach(digest, 'attacks', {'run': point, 'padding': 'x' * 9000})
        os._exit(0)
    died = not os.WIFEXITED(os.waitpid(child, 0)[1])
    print(point, store.manifest(digest).evidence['attacks']['run'], len(store.history()))
    if not died:
        break
"""


def add(store: AdapterStore, make_weights: MakeWeights, name: str = "a", passed: bool = True) -> Manifest:
    return store.add_weights(make_weights(), {"name": name, "method": "npo", "gates_passed": passed})


def refused(call: Callable[[], Any]) -> AdapterError:
    with pytest.raises(AdapterError) as caught:
        call()
    return caught.value


def test_evidence_is_kept_by_kind_and_changes_neither_digest_nor_bytes(
    store: AdapterStore, make_weights: MakeWeights
) -> None:
    manifest = add(store, make_weights)
    store.alias("candidate", manifest.digest)

    store.attach(manifest.digest, "attacks", {"figures": [1, 2.5, None], "gates": [PASSED, UNMEASURED]})
    store.attach(manifest.digest, "canary", {"verdict": "HOLD"})
    found = store.attach(manifest.digest, "attacks", {"figures": [3]})

    assert found == store.manifest(manifest.digest)
    assert found.evidence == {"attacks": {"figures": [3]}, "canary": {"verdict": "HOLD"}}
    assert (found.digest, found.created, found.core) == (manifest.digest, manifest.created, manifest.core)
    assert store.load(manifest.digest).digest == manifest.digest
    assert store.aliases() == {"candidate": manifest.digest}
    events = [(e["event"], e.get("kind"), e.get("failed_gates")) for e in store.history()]
    assert events[-3:] == [("evidence", k, []) for k in ("attacks", "canary", "attacks")]
    assert add(store, make_weights) == found


def test_a_manifest_from_before_there_was_evidence_still_loads(
    store: AdapterStore, make_weights: MakeWeights
) -> None:
    manifest = add(store, make_weights)
    path = store.path(manifest.digest) / "manifest.json"
    content = json.loads(path.read_text())
    del content["evidence"]
    path.write_text(json.dumps(content))

    assert store.manifest(manifest.digest) == manifest
    store.attach(manifest.digest, "attacks", {"gates": [PASSED]})
    store.alias("stable", manifest.digest)


def test_a_failed_gate_blocks_promotion_and_is_named(store: AdapterStore, make_weights: MakeWeights) -> None:
    digest = add(store, make_weights).digest
    store.attach(digest, "attacks", {"gates": [PASSED, FAILED, UNMEASURED]})

    error = refused(lambda: store.alias("stable", digest))

    assert error.code == ErrorCode.ADAPTER_NOT_PROMOTABLE
    assert "qrr_4bit_max" in error.message
    assert "attacks" in error.message
    assert (error.value, error.limit) == (0.4, 0.2)
    assert store.manifest(digest).gates_passed is False
    assert store.history()[-1]["failed_gates"] == ["qrr_4bit_max"]
    store.alias("candidate", digest)
    store.attach(digest, "attacks", {"gates": [PASSED]})
    store.alias("stable", digest)
    assert store.aliases()["stable"] == digest


def test_an_adapter_that_is_stable_already_stays_until_it_is_moved(
    store: AdapterStore, make_weights: MakeWeights
) -> None:
    """What serves is moved by a person or by the canary, never by a document."""
    digest = add(store, make_weights).digest
    store.alias("stable", digest)

    store.attach(digest, "attacks", {"gates": [FAILED]})

    assert store.aliases()["stable"] == digest
    assert refused(lambda: store.alias("stable", digest)).code == ErrorCode.ADAPTER_NOT_PROMOTABLE


@pytest.mark.parametrize(
    ("kind", "document"),
    [
        ("Attacks", {}),
        ("../up", {}),
        ("", {}),
        ("attacks", {"value": float("nan")}),
        ("attacks", {"value": {1, 2}}),
        ("attacks", {"gates": {"name": "x"}}),
        ("attacks", {"gates": [{"name": "x"}]}),
        ("attacks", {"gates": [{**FAILED, "verdict": "FAILED"}]}),
        ("attacks", {"gates": [{**FAILED, "value": "0.4"}]}),
    ],
)
def test_bad_evidence_is_refused_and_changes_nothing(
    store: AdapterStore, make_weights: MakeWeights, kind: str, document: dict[str, Any]
) -> None:
    manifest = add(store, make_weights)

    assert refused(lambda: store.attach(manifest.digest, kind, document)).code == ErrorCode.ADAPTER_BAD_DIGEST
    assert store.manifest(manifest.digest) == manifest
    assert [e["event"] for e in store.history()] == ["added"]


def test_evidence_needs_an_adapter_and_has_a_limit(store: AdapterStore, make_weights: MakeWeights) -> None:
    assert refused(lambda: store.attach("0" * 64, "attacks", {})).code == ErrorCode.ADAPTER_UNKNOWN
    assert not store.root.exists()
    manifest = add(store, make_weights)

    error = refused(lambda: store.attach(manifest.digest, "attacks", {"x": "y" * 9_000_000}))

    assert error.code == ErrorCode.ADAPTER_BAD_DIGEST
    assert "8388608 bytes" in str(error.limit)
    assert store.manifest(manifest.digest) == manifest


def test_a_gate_that_cannot_be_read_is_no_gate_that_passed(
    store: AdapterStore, make_weights: MakeWeights
) -> None:
    digest = add(store, make_weights).digest
    path = store.path(digest) / "manifest.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "evidence": {"attacks": {"gates": [{"name": "x"}]}}}))

    assert refused(lambda: store.alias("stable", digest)).code == ErrorCode.ADAPTER_BAD_DIGEST


def test_kill_9_at_any_moment_of_an_attach_leaves_the_old_or_the_new_evidence(
    tmp_path: Path, make_weights: MakeWeights
) -> None:
    store = AdapterStore(tmp_path / "store")
    digest = add(store, make_weights).digest
    store.attach(digest, "attacks", {"run": -1})
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-c", KILLED, str(store.root), digest]

    run = subprocess.run(line, capture_output=True, text=True, timeout=120, env=environment, check=False)

    assert run.returncode == 0, run.stderr
    seen = [tuple(int(word) for word in row.split()) for row in run.stdout.splitlines()]
    # The new file, its directory, the history; the last child lives.
    assert len(seen) >= 4
    held = -1
    for point, found, _ in seen:
        assert found in (held, point)
        held = found
    assert held == seen[-1][0]
    assert store.load(digest).digest == digest


def test_two_kinds_attached_at_once_are_both_kept(store: AdapterStore, make_weights: MakeWeights) -> None:
    from concurrent.futures import ThreadPoolExecutor

    digest = add(store, make_weights).digest
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: store.attach(digest, f"kind_{n}", {"n": n}), range(12)))

    assert store.manifest(digest).evidence == {f"kind_{n}": {"n": n} for n in range(12)}
