"""The engine under a trust policy: what is not trusted never serves, and the way back stays open."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from engine_parts import TASK, code_of, random_weights
from signed_parts import Signers

from vlaforget_ros.adapters import AdapterStore, peft_format
from vlaforget_ros.errors import ErrorCode
from vlaforget_ros.policy.engine import InferenceEngine
from vlaforget_ros.policy.policy import VlaPolicy

NAMES = ("unsigned", "first", "second")


@pytest.fixture
def signers(tmp_path: Path) -> Signers:
    return Signers(tmp_path)


@pytest.fixture
def digests(policy: VlaPolicy, tmp_path: Path, signers: Signers) -> dict[str, str]:
    store = AdapterStore(tmp_path / "store")
    found = {}
    for seed, name in enumerate(NAMES):
        weights = random_weights(policy.model, seed, policy.base_digest)
        found[name] = store.add_weights(weights, {"name": name, "method": "test"}).digest
        if name != "unsigned":
            signers.sign(store, found[name], "safety")
    return found


@pytest.fixture
def engine(
    policy: VlaPolicy, tmp_path: Path, signers: Signers, digests: dict[str, str]
) -> Iterator[InferenceEngine]:
    source = signers.store(AdapterStore(tmp_path / "store"), "safety")
    with InferenceEngine(policy, source) as running:
        yield running


def revoke(signers: Signers, digest: str) -> None:
    """While the robot runs: only the file changes."""
    signers.policy_file("safety", revoked_adapters=[{"digest": digest, "reason": "drifts"}])


def test_an_unsigned_adapter_is_refused_before_its_tensors_and_the_active_one_stays(
    engine: InferenceEngine, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.swap("first")
    before = engine.infer(images[0], TASK)
    monkeypatch.setattr(peft_format, "decode", lambda *_, **__: pytest.fail("tensors were decoded"))

    assert code_of(lambda: engine.swap("unsigned")) == ErrorCode.ADAPTER_UNTRUSTED

    after = engine.infer(images[0], TASK)
    assert after.adapter_digest == before.adapter_digest
    assert after.prediction.tokens == before.prediction.tokens


def test_the_list_says_who_signed(engine: InferenceEngine) -> None:
    found = {info.name: info.signer for info in engine.adapters()}

    assert found == {"unsigned": "", "first": "safety", "second": "safety"}


def test_a_rollback_needs_neither_store_nor_policy_nor_library(
    engine: InferenceEngine,
    digests: dict[str, str],
    signers: Signers,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine.swap("first")
    engine.swap("second")
    shutil.rmtree(tmp_path / "store")
    (tmp_path / "trust.yaml").unlink()
    for name in ("model_signing", "cryptography"):
        monkeypatch.setitem(sys.modules, name, None)

    assert engine.rollback("dead", by_operator=False).active_digest == digests["first"]
    assert engine.rollback("dead").active_digest == ""


def test_an_adapter_revoked_while_it_is_resident_is_swapped_in_no_more(
    engine: InferenceEngine, digests: dict[str, str], signers: Signers
) -> None:
    engine.swap("first")
    engine.swap("second")
    revoke(signers, digests["first"])

    assert code_of(lambda: engine.swap("first")) == ErrorCode.ADAPTER_REVOKED
    assert code_of(lambda: engine.rollback("monitor", by_operator=False)) == ErrorCode.ADAPTER_REVOKED
    assert engine.active_digest == digests["second"]
    assert engine.rollback("a person decided").active_digest == digests["first"]


def test_a_policy_that_was_spoilt_refuses_swaps_and_keeps_the_arm_going(
    engine: InferenceEngine, digests: dict[str, str], images: np.ndarray, tmp_path: Path
) -> None:
    engine.swap("first")
    (tmp_path / "trust.yaml").write_text("signers: [", encoding="utf-8")

    assert code_of(lambda: engine.swap("second")) == ErrorCode.ADAPTER_UNTRUSTED
    assert engine.infer(images[0], TASK).adapter_digest == digests["first"]
