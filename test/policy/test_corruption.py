"""Every tensor of an adapter made wrong in turn: no swap takes it, and the old adapter acts on, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from bundle_parts import WEIGHTS, archive, code_of_refusal, members_of, rehashed
from corruption import CORRUPTIONS, corrupt, keys
from engine_parts import TASK, random_weights

from vlaforget_ros.adapters import AdapterStore
from vlaforget_ros.adapters.exchange import import_adapter
from vlaforget_ros.policy.engine import InferenceEngine
from vlaforget_ros.policy.policy import VlaPolicy


@pytest.fixture
def store(tmp_path: Path, policy: VlaPolicy) -> AdapterStore:
    opened = AdapterStore(tmp_path / "store")
    for seed, name in enumerate(("old", "new")):
        opened.add_weights(
            random_weights(policy.model, seed, policy.base_digest), {"name": name, "method": "test"}
        )
    return opened


@pytest.fixture
def engine(policy: VlaPolicy, store: AdapterStore) -> Iterator[InferenceEngine]:
    with InferenceEngine(policy, store) as running:
        running.swap("old")
        yield running


@pytest.mark.parametrize("how", CORRUPTIONS)
def test_a_swap_to_an_adapter_with_any_tensor_corrupted_changes_nothing(
    how: str, engine: InferenceEngine, store: AdapterStore, images: np.ndarray
) -> None:
    old, new = store.resolve("old"), store.resolve("new")
    file = store.path(new) / WEIGHTS
    good = file.read_bytes()
    before = engine.infer(images[0], TASK).prediction
    for key in keys(good):
        file.write_bytes(corrupt(good, how, key))
        assert code_of_refusal(lambda: engine.swap("new")) == 103, key
        assert engine.active_digest == old
        after = engine.infer(images[0], TASK).prediction
        assert after.tokens == before.tokens
        assert np.array_equal(after.action, before.action)
    file.write_bytes(good)
    assert engine.swap("new").active_digest == new


def test_a_layer_of_another_width_under_a_forged_manifest_is_refused_by_the_model(
    tmp_path: Path, engine: InferenceEngine, store: AdapterStore, images: np.ndarray
) -> None:
    """The only corruption of a shape that the file alone cannot show: one more output of B."""
    old, members = store.resolve("old"), members_of(store, store.resolve("new"))
    before = engine.infer(images[0], TASK).prediction
    wider = [key for key in keys(members[WEIGHTS]) if ".lora_B." in key]
    for key in wider:
        forged = rehashed({**members, WEIGHTS: corrupt(members[WEIGHTS], "shape", key)}, name="forged")
        (tmp_path / "sent.tar").write_bytes(archive(forged.items()))
        digest = import_adapter(store, str(tmp_path / "sent.tar")).manifest.digest
        assert code_of_refusal(lambda digest=digest: engine.swap(digest)) == 104, key
        store.remove(digest)
    assert len(wider) > 10
    assert engine.active_digest == old
    assert engine.infer(images[0], TASK).prediction.tokens == before.tokens
