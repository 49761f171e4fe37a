"""A canary's rollouts: an adapter that stands in for the active one, and one that only computes beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from engine_parts import TASK, code_of, random_weights

from vlaforget_ros.adapters import AdapterStore
from vlaforget_ros.policy.engine import InferenceEngine
from vlaforget_ros.policy.policy import VlaPolicy


@pytest.fixture
def store(tmp_path: Path) -> AdapterStore:
    return AdapterStore(tmp_path / "store")


@pytest.fixture
def digests(policy: VlaPolicy, store: AdapterStore) -> list[str]:
    weights = [random_weights(policy.model, seed, policy.base_digest) for seed in range(4)]
    return [
        store.add_weights(w, {"name": f"edit-{seed}", "method": "test"}).digest
        for seed, w in enumerate(weights)
    ]


@pytest.fixture(params=[False, True], ids=["factors", "merged"])
def engine(
    policy: VlaPolicy, store: AdapterStore, request: pytest.FixtureRequest
) -> Iterator[InferenceEngine]:
    with InferenceEngine(policy, store, merge=request.param, resident_limit=2) as running:
        yield running


def tokens(engine: InferenceEngine, image: np.ndarray) -> tuple[str, tuple[int, ...]]:
    done = engine.infer(image, TASK)
    return done.adapter_digest, done.prediction.tokens


def events(store: AdapterStore) -> list[str]:
    return [entry["event"] for entry in store.history() if entry["event"] != "added"]


def test_a_route_serves_until_it_ends_and_is_no_swap(
    engine: InferenceEngine, digests: list[str], images: np.ndarray, store: AdapterStore
) -> None:
    engine.swap(digests[1])
    candidate = tokens(engine, images[0])
    engine.swap(digests[0])
    stable = tokens(engine, images[0])
    recorded = events(store)

    routed = engine.route(digests[1])
    during = tokens(engine, images[0])
    engine.unroute()

    assert (routed.previous_digest, routed.active_digest) == (digests[0], digests[1])
    assert during == candidate != stable
    assert tokens(engine, images[0]) == stable
    assert engine.previous_digest == digests[1]
    assert events(store) == recorded == ["swap", "swap"]


def test_a_rollback_ends_the_route_and_goes_no_further(
    engine: InferenceEngine, digests: list[str], images: np.ndarray
) -> None:
    engine.swap(digests[0])
    stable = tokens(engine, images[0])
    engine.route(digests[1])
    assert engine.previous_digest == digests[0]

    back = engine.rollback("abort", by_operator=False)

    assert (back.previous_digest, back.active_digest) == (digests[1], digests[0])
    assert tokens(engine, images[0]) == stable
    # What a person rolls back to afterwards is what came before stable: the candidate left no trace.
    assert engine.previous_digest == ""


def test_a_program_rolls_back_only_the_adapter_it_means(engine: InferenceEngine, digests: list[str]) -> None:
    engine.swap(digests[0])
    engine.route(digests[1])
    engine.unroute()
    assert code_of(lambda: engine.rollback("abort", by_operator=False, only_from=digests[1])) == 110
    assert engine.active_digest == digests[0]
    engine.route(digests[1])
    assert engine.rollback("abort", by_operator=False, only_from=digests[1]).active_digest == digests[0]


def test_a_swap_during_a_route_ends_it(engine: InferenceEngine, digests: list[str]) -> None:
    engine.swap(digests[0])
    engine.route(digests[1])
    engine.swap(digests[2])
    assert engine.active_digest == digests[2]
    assert engine.previous_digest == digests[0]
    engine.unroute()
    assert engine.active_digest == digests[2]


def test_a_route_to_what_cannot_be_staged_changes_nothing(
    engine: InferenceEngine, digests: list[str], images: np.ndarray, store: AdapterStore
) -> None:
    engine.swap(digests[0])
    stable = tokens(engine, images[0])
    file = next((store.root / "adapters" / digests[3]).glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    assert code_of(lambda: engine.route(digests[3])) == 103
    assert tokens(engine, images[0]) == stable


def test_the_shadow_is_the_other_adapters_answer_and_leaves_no_trace(
    engine: InferenceEngine, digests: list[str], images: np.ndarray
) -> None:
    engine.swap(digests[1])
    candidate = engine.infer(images[0], TASK).prediction
    engine.swap(digests[0])
    stable = tokens(engine, images[0])
    measured = engine.latency().count

    assert engine.shadow(digests[2], images[0], TASK) is None
    assert engine.prepare("edit-1") == digests[1]
    shadow = engine.shadow(digests[1], images[0], TASK)
    base = engine.shadow("", images[0], TASK)

    assert shadow is not None
    assert shadow.tokens == candidate.tokens
    np.testing.assert_array_equal(shadow.action, candidate.action)
    assert base is not None
    assert base.tokens != shadow.tokens
    assert engine.active_digest == digests[0]
    assert engine.latency().count == measured
    assert tokens(engine, images[0]) == stable


def test_what_is_routed_or_prepared_stays_in_memory(engine: InferenceEngine, digests: list[str]) -> None:
    engine.swap(digests[0])
    engine.route(digests[1])
    engine.prepare(digests[2])
    assert set(engine.resident) >= {digests[0], digests[1], digests[2]}
    engine.unroute()
    engine.prepare(digests[3])
    assert digests[0] in engine.resident
    assert digests[1] not in engine.resident
