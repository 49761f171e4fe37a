"""What an arm starts with: the last known good adapter, never the bare base by accident."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_parts import random_weights

from vlaforget_ros.adapters import AdapterStore
from vlaforget_ros.errors import AdapterError, ErrorCode
from vlaforget_ros.policy import boot
from vlaforget_ros.policy.engine import InferenceEngine
from vlaforget_ros.policy.policy import VlaPolicy


@pytest.fixture
def store(tmp_path: Path) -> AdapterStore:
    return AdapterStore(tmp_path / "store")


@pytest.fixture
def digests(policy: VlaPolicy, store: AdapterStore) -> list[str]:
    """Two adapters, the second one stable and the first one stable before."""
    found = [
        store.add_weights(
            random_weights(policy.model, seed, policy.base_digest),
            {"name": f"edit-{seed}", "method": "test", "gates_passed": True},
        ).digest
        for seed in range(2)
    ]
    for digest in found:
        store.alias("stable", digest)
    return found


@pytest.fixture
def engine(policy: VlaPolicy, store: AdapterStore) -> Iterator[InferenceEngine]:
    with InferenceEngine(policy, store) as running:
        yield running


def start(
    engine: InferenceEngine, store: AdapterStore, wanted: str = "", allow_base: bool = False
) -> tuple[str, list[str]]:
    told: list[str] = []
    return boot.start(engine, store.aliases(), wanted, allow_base, told.append), told


def damage(store: AdapterStore, digest: str) -> None:
    file = store.path(digest) / "adapter_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def test_it_is_stable_and_a_rollback_goes_to_previous(
    engine: InferenceEngine, store: AdapterStore, digests: list[str]
) -> None:
    assert start(engine, store) == (digests[1], [])
    assert engine.rollback("misbehaves").active_digest == digests[0]
    with pytest.raises(AdapterError) as caught:
        engine.rollback("still")
    assert caught.value.code == ErrorCode.ADAPTER_NO_PREVIOUS, "never the base that was edited for a reason"
    swaps = [(event["digest"], event.get("reason")) for event in store.history() if event["event"] == "swap"]
    assert swaps == [(digests[0], "start"), (digests[1], "start")]


def test_the_base_may_be_rolled_back_to_where_that_is_allowed(
    engine: InferenceEngine, store: AdapterStore, digests: list[str]
) -> None:
    start(engine, store, allow_base=True)
    assert [engine.rollback("twice").active_digest for _ in range(2)] == [digests[0], ""]


def test_previous_takes_the_place_of_a_damaged_stable(
    engine: InferenceEngine, store: AdapterStore, digests: list[str]
) -> None:
    damage(store, digests[1])
    active, told = start(engine, store)
    assert active == digests[0]
    assert len(told) == 1
    assert "cannot start with stable" in told[0]


def test_with_both_damaged_nothing_is_served_unless_the_base_may_be(
    engine: InferenceEngine, store: AdapterStore, digests: list[str]
) -> None:
    for digest in digests:
        damage(store, digest)
    with pytest.raises(AdapterError, match="allow_base") as caught:
        start(engine, store)
    assert caught.value.code == ErrorCode.ADAPTER_BAD_DIGEST
    assert start(engine, store, allow_base=True)[0] == ""


def test_a_store_that_knows_no_stable_or_says_base_means_the_base(
    engine: InferenceEngine, store: AdapterStore, digests: list[str]
) -> None:
    store.alias("stable", "")
    assert store.aliases()["previous"] == digests[1]
    assert start(engine, store) == ("", [])
    assert boot.start(engine, {}, "", False, str) == ""


def test_what_is_asked_for_is_served_or_refused(
    engine: InferenceEngine, store: AdapterStore, digests: list[str]
) -> None:
    with pytest.raises(AdapterError) as caught:
        start(engine, store, "edit-7")
    assert caught.value.code == ErrorCode.ADAPTER_UNKNOWN
    assert start(engine, store, "base")[0] == ""
    assert start(engine, store, "edit-0")[0] == digests[0]
