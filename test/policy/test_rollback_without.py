"""The way back needs nothing but the memory of the policy: no store that can be written, no memory of the device."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from engine_parts import TASK, code_of, random_weights
from mounts import MOUNTS, python

from vlaforget_ros.adapters import AdapterStore
from vlaforget_ros.errors import ErrorCode
from vlaforget_ros.policy.engine import InferenceEngine
from vlaforget_ros.policy.policy import VlaPolicy

READ_ONLY = """
import subprocess, sys
import numpy as np
import torch
from pathlib import Path
sys.path.insert(0, sys.argv[4])
from engine_parts import random_weights
from vlaforget_ros.adapters import AdapterStore
from vlaforget_ros.policy.engine import InferenceEngine
from vlaforget_ros.policy.policy import VlaPolicy

torch.set_num_threads(1)
root, policy, mode = Path(sys.argv[1]), VlaPolicy.load(Path(sys.argv[2])), sys.argv[3]
store = AdapterStore(root)
digests = [
    store.add_weights(random_weights(policy.model, s, policy.base_digest), {'name': f'e{s}', 'method': 't'}).digest
    for s in range(2)
]
image = np.zeros((64, 64, 3), np.uint8)
with InferenceEngine(policy, store) as engine:
    engine.swap(digests[0])
    before = engine.infer(image, 'open the faucet').prediction.tokens
    engine.swap(digests[1])
    if mode == 'mount':
        subprocess.run(['mount', '--bind', root, root], check=True)
        subprocess.run(['mount', '-o', 'remount,ro,bind', root], check=True)
    else:
        subprocess.run(['chmod', '-R', 'a-w', root], check=True)
    events = (root / 'history.jsonl').read_bytes()
    assert engine.rollback('read-only').active_digest == digests[0]
    assert engine.infer(image, 'open the faucet').prediction.tokens == before
    # Swaps read only: they go on as well.
    assert engine.swap(digests[1]).active_digest == digests[1]
    print('unwritten' if (root / 'history.jsonl').read_bytes() == events else 'written')
"""


@pytest.mark.parametrize("mode", ["permissions", *(["mount"] if MOUNTS else [])])
def test_rollback_works_with_the_store_read_only(mode: str, tmp_path: Path, checkpoint_dir: Path) -> None:
    (tmp_path / "store").mkdir()
    shared = Path(__file__).resolve().parents[1] / "shared"
    said = python(READ_ONLY, tmp_path / "store", checkpoint_dir, mode, shared, before=MOUNTS)
    # The superuser writes whatever the permissions say; nobody writes to a read-only mount.
    assert said.split()[-1] in ({"unwritten"} if mode == "mount" else {"unwritten", "written"})


@pytest.mark.parametrize("merge", [False, True], ids=["factors", "merged"])
def test_rollback_works_with_the_device_out_of_memory(
    merge: bool, policy: VlaPolicy, tmp_path: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = AdapterStore(tmp_path / "store")
    first, second, third = (
        store.add_weights(
            random_weights(policy.model, seed, policy.base_digest), {"name": f"edit-{seed}", "method": "test"}
        ).digest
        for seed in range(3)
    )
    with InferenceEngine(policy, store, merge=merge, resident_limit=2) as engine:
        engine.swap(first)
        good = engine.infer(images[0], TASK).prediction.tokens
        engine.swap(second)

        def full(*_: object, **__: object) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory")

        # Whatever asks the device for room from here on fails.
        for name in ("empty", "empty_like", "zeros"):
            monkeypatch.setattr(torch, name, full)
        monkeypatch.setattr(torch.Tensor, "contiguous", full)
        monkeypatch.setattr("vlaforget_ros.policy.merged.require_finite", full)
        assert code_of(lambda: engine.swap(third)) == ErrorCode.POLICY_OUT_OF_MEMORY
        assert engine.active_digest == second
        assert engine.rollback("it misbehaves").active_digest == first
        monkeypatch.undo()
        assert engine.infer(images[0], TASK).prediction.tokens == good


def test_a_flip_that_runs_out_of_memory_is_refused_with_204_and_the_old_adapter_serves(
    policy: VlaPolicy, tmp_path: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = AdapterStore(tmp_path / "store")
    weights = random_weights(policy.model, 1, policy.base_digest)
    digest = store.add_weights(weights, {"name": "edit", "method": "test"}).digest
    with InferenceEngine(policy, store, merge=True) as engine:
        base = engine.infer(images[0], TASK).prediction.tokens
        place, calls = engine._model.slots._place, []  # type: ignore[attr-defined]

        def short(*arguments: object) -> None:
            calls.append(arguments)
            if len(calls) == 5:
                raise torch.OutOfMemoryError("CUDA out of memory")
            place(*arguments)

        monkeypatch.setattr(engine._model.slots, "_place", short)
        assert code_of(lambda: engine.swap(digest)) == ErrorCode.POLICY_OUT_OF_MEMORY
        assert (engine.active_digest, engine.previous_digest) == ("", None)
        assert engine.infer(images[0], TASK).prediction.tokens == base
