"""Chunks of actions in the engine: one control tick after the other, and never across a swap unless wanted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from engine_parts import random_weights
from released_parts import INSTRUCTION, write_oft

from vlaforget_ros.adapters import AdapterStore
from vlaforget_ros.policy.engine import InferenceEngine
from vlaforget_ros.policy.policy import VlaPolicy

OTHER = "close the window"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("oft")
    write_oft(folder, chunk=3)
    return folder


@pytest.fixture
def policy(base: Path) -> VlaPolicy:
    return VlaPolicy.load(base)


@pytest.fixture
def store(policy: VlaPolicy, tmp_path: Path) -> AdapterStore:
    store = AdapterStore(tmp_path)
    store.add_weights(random_weights(policy.model, 1, policy.base_digest), {"name": "edit", "method": "test"})
    return store


IMAGES = np.random.default_rng(0).integers(0, 256, (8, 28, 28, 3), dtype=np.uint8)


def _chunks(policy: VlaPolicy) -> np.ndarray:
    """(8, 3, 7) what the base policy decides for each image."""
    found = [policy.steps(p.action) for p in policy.act_batch(IMAGES, [INSTRUCTION] * 8)]
    return np.stack(found)


def _same(action: np.ndarray, wanted: np.ndarray) -> bool:
    return bool(np.allclose(action, wanted, atol=1e-5))


def test_a_chunk_is_executed_and_then_the_policy_is_asked_again(
    policy: VlaPolicy, store: AdapterStore
) -> None:
    wanted = _chunks(policy)
    with InferenceEngine(policy, store) as engine:
        answers = [engine.infer(IMAGES[step], INSTRUCTION, step) for step in range(7)]
    assert all(answer.prediction.action.shape == (7,) for answer in answers)
    for step, (image, place) in enumerate([(0, 0), (0, 1), (0, 2), (3, 0), (3, 1), (3, 2), (6, 0)]):
        assert _same(answers[step].prediction.action, wanted[image][place]), step
    assert [answer.step for answer in answers] == list(range(7))


def test_fewer_steps_of_a_chunk(policy: VlaPolicy, store: AdapterStore) -> None:
    wanted = _chunks(policy)
    with InferenceEngine(policy, store, chunk_steps=2) as engine:
        answers = [engine.infer(IMAGES[step], INSTRUCTION, step).prediction.action for step in range(4)]
    for answer, (image, place) in zip(answers, [(0, 0), (0, 1), (2, 0), (2, 1)], strict=True):
        assert _same(answer, wanted[image][place])


def test_a_swap_drops_the_chunk_of_the_earlier_adapter(policy: VlaPolicy, store: AdapterStore) -> None:
    wanted = _chunks(policy)
    with InferenceEngine(policy, store) as engine:
        engine.infer(IMAGES[0], INSTRUCTION, 0)
        second = engine.infer(IMAGES[1], INSTRUCTION, 1)
        swapped = engine.swap("edit")
        third = engine.infer(IMAGES[2], INSTRUCTION, 2)
        engine.rollback("test")
        fourth = engine.infer(IMAGES[3], INSTRUCTION, 3)
    assert _same(second.prediction.action, wanted[0][1])
    assert swapped.effective_step == 2
    assert third.adapter_digest == swapped.active_digest
    assert not _same(third.prediction.action, wanted[0][2])
    assert not _same(third.prediction.action, wanted[2][0])
    assert (fourth.adapter_digest, _same(fourth.prediction.action, wanted[3][0])) == ("", True)


def test_a_chunk_may_be_finished_and_says_whose_it_is(policy: VlaPolicy, store: AdapterStore) -> None:
    wanted = _chunks(policy)
    with InferenceEngine(policy, store, finish_chunks=True) as engine:
        engine.infer(IMAGES[0], INSTRUCTION, 0)
        swapped = engine.swap("edit")
        rest = [engine.infer(IMAGES[step], INSTRUCTION, step) for step in (1, 2, 3)]
    assert [answer.adapter_digest for answer in rest] == ["", "", swapped.active_digest]
    assert _same(rest[1].prediction.action, wanted[0][2])


def test_a_rollback_drops_the_chunk_whatever_was_asked_for(policy: VlaPolicy, store: AdapterStore) -> None:
    with InferenceEngine(policy, store, finish_chunks=True) as engine:
        engine.swap("edit")
        bad = engine.infer(IMAGES[0], INSTRUCTION, 0)
        engine.rollback("reaches for the hand")
        after = engine.infer(IMAGES[1], INSTRUCTION, 1)
    assert (bad.adapter_digest != "", after.adapter_digest) == (True, "")
    assert _same(after.prediction.action, _chunks(policy)[1][0])


@pytest.mark.parametrize(
    ("instruction", "step", "ended"),
    [(OTHER, 1, False), (INSTRUCTION, 2, False), (INSTRUCTION, 0, False), (INSTRUCTION, 1, True)],
    ids=["other words", "a held tick", "a new rollout", "the rollout ended"],
)
def test_what_was_decided_for_something_else_is_dropped(
    policy: VlaPolicy, store: AdapterStore, instruction: str, step: int, ended: bool
) -> None:
    with InferenceEngine(policy, store) as engine:
        engine.infer(IMAGES[0], INSTRUCTION, 0)
        if ended:
            engine.rollout_ended()
        found = engine.infer(IMAGES[5], instruction, step).prediction.action
    expected = policy.steps(policy.act(IMAGES[5], instruction).action)[0]
    assert _same(found, expected)


def test_a_fault_holds_for_one_tick_and_leaves_nothing_waiting(
    policy: VlaPolicy, store: AdapterStore
) -> None:
    with InferenceEngine(policy, store, chunk_steps=1) as engine:
        engine.infer(IMAGES[0], INSTRUCTION, 0)
        held = engine.infer(IMAGES[1], "fly to the moon", 1)
        after = engine.infer(IMAGES[2], INSTRUCTION, 2)
    assert held.prediction.fault
    assert np.array_equal(held.prediction.action, np.zeros(7))
    assert _same(after.prediction.action, _chunks(policy)[2][0])
