"""One model that serves several arms: each row of a batch has its own adapter, and nobody gets another arm's."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_parts import TASK, code_of, random_weights, stored_edits

from vlaforget_ros.adapters import AdapterStore
from vlaforget_ros.errors import ErrorCode
from vlaforget_ros.policy.engine import Inference, InferenceEngine
from vlaforget_ros.policy.policy import Observation, VlaPolicy
from vlaforget_ros.policy.slots import AdapterSlots


@pytest.fixture
def store(tmp_path: Path) -> AdapterStore:
    return AdapterStore(tmp_path / "store")


@pytest.fixture
def digests(policy: VlaPolicy, store: AdapterStore) -> list[str]:
    return stored_edits(store, policy.model, policy.base_digest, 4)


@pytest.fixture
def arms(policy: VlaPolicy, store: AdapterStore) -> Iterator[list[InferenceEngine]]:
    """Three arms; an inference waits for those of the others."""
    first = InferenceEngine(policy, store, wait_ms=1500.0, resident_limit=2)
    made = [first, *(InferenceEngine(policy, store, beside=first) for _ in range(2))]
    yield made
    for engine in made:
        engine.close()


def be_patient(arms: list[InferenceEngine]) -> None:
    """All are known to run and will ask: from now on an inference waits for the others, however late they come."""
    arms[0]._model.desk._wait_s = 120.0


def at_once(
    engines: list[InferenceEngine], images: np.ndarray, step: int, task: str = TASK
) -> list[Inference]:
    with ThreadPoolExecutor(len(engines)) as pool:
        asked = [pool.submit(e.infer, images[i], task, step) for i, e in enumerate(engines)]
        return [future.result(60) for future in asked]


class Passes:
    """Counts forward passes of the projector, and how many observations each had."""

    def __init__(self, policy: VlaPolicy) -> None:
        self.sizes: list[int] = []
        policy.model.projector.register_forward_hook(lambda _m, _i, output: self.sizes.append(len(output)))


def test_each_row_of_a_batch_is_the_base_s_and_its_own_adapter_s(
    policy: VlaPolicy, store: AdapterStore, digests: list[str], images: np.ndarray
) -> None:
    slots = AdapterSlots(policy.model)
    staged = [slots.stage(store.load(digest)) for digest in digests]
    rows = [staged[0], staged[0], None, staged[1], staged[0]]
    batch = policy.encode(images, [TASK] * 5, np.zeros((5, 4), np.float32))

    def logits() -> torch.Tensor:
        with torch.inference_mode():
            return policy.action_logits(batch).clone()

    slots.activate_rows(rows)
    mixed = logits()
    for row, adapter in enumerate(rows):
        slots.activate(adapter)
        alone = logits()
        # The same arithmetic in another order: a delta of fewer rows.
        torch.testing.assert_close(mixed[row], alone[row], rtol=1e-4, atol=1e-4)
        if adapter is None:
            assert torch.equal(mixed[row], alone[row]), "an adapter of other rows leaves this one as it is"
    slots.activate_rows([staged[2]] * 5)
    uniform = logits()
    slots.activate(staged[2])
    assert torch.equal(uniform, logits()), "one adapter for all rows is the plain path, bit for bit"
    slots.activate_rows(staged[:2])
    with pytest.raises(ValueError, match="5 rows for 2 observations"):
        logits()
    slots.remove()


def test_arms_that_ask_at_once_share_one_forward_pass_and_none_gets_another_s_adapter(
    policy: VlaPolicy, arms: list[InferenceEngine], digests: list[str], images: np.ndarray
) -> None:
    expected: dict[tuple[str, int], tuple[int, ...]] = {}
    for digest in ["", *digests]:
        arms[0].swap(digest or "base")
        for row in range(3):
            expected[digest, row] = arms[0].infer(images[row], TASK).prediction.tokens
    arms[0].rollout_ended()
    passes = Passes(policy)
    for arm in arms:
        arm.swap("base")
    at_once(arms, images, 0)  # from now on all three are known to run
    be_patient(arms)
    passes.sizes.clear()
    answers = []
    for step, chosen in enumerate([(0, 1, 2), (3, None, 0), (1, 1, 0), (None, None, None)], 1):
        served = ["" if index is None else digests[index] for index in chosen]
        for arm, digest in zip(arms, served, strict=True):
            arm.swap(digest or "base")
        found = at_once(arms, images, step)
        assert [answer.adapter_digest for answer in found] == served
        answers += list(enumerate(found))

    assert passes.sizes == [3, 3, 3, 3]
    wrong = [a for row, a in answers if a.prediction.tokens != expected[a.adapter_digest, row]]
    assert wrong == []
    assert len({a.prediction.tokens for _, a in answers}) > 4


def test_arms_whose_prompts_differ_in_length_keep_their_own_adapters(
    policy: VlaPolicy, arms: list[InferenceEngine], digests: list[str], images: np.ndarray
) -> None:
    texts = [TASK, "make a coffee", TASK]
    expected = []
    for arm, digest, image, text in zip(arms, digests, images, texts, strict=False):
        arm.swap(digest)
        expected.append(arm.infer(image, text).prediction.tokens)
        arm.rollout_ended()
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(arms[i].infer, images[i], texts[i], 1) for i in range(3)]
        assert [future.result(60).prediction.tokens for future in asked] == expected


def test_a_rollback_of_one_arm_leaves_the_others(
    arms: list[InferenceEngine], digests: list[str], images: np.ndarray
) -> None:
    for arm, digest in zip(arms, digests, strict=False):
        arm.swap(digest)
    arms[1].swap(digests[3])

    back = arms[1].rollback("it alone")

    assert back.active_digest == digests[1]
    assert [arm.active_digest for arm in arms] == digests[:3]
    assert arms[0].previous_digest == arms[2].previous_digest == ""
    assert [answer.adapter_digest for answer in at_once(arms, images, 0)] == digests[:3]
    assert arms[0].swap("base").effective_step == 1
    arms[1].rollout_ended()
    assert arms[1].swap("base").effective_step == -1


def test_what_any_arm_uses_is_never_dropped_and_what_two_use_lies_in_memory_once(
    arms: list[InferenceEngine], digests: list[str], images: np.ndarray
) -> None:
    arms[0].swap(digests[0])
    assert arms[1].swap(digests[0]).staged_ms == 0.0, "another arm has it in memory"
    for digest in digests[1:]:
        arms[2].swap(digest)
    # resident_limit is 2: used are one of the first two arms, and two of the third with its way back.
    assert set(arms[0].resident) == {digests[0], digests[2], digests[3]}
    assert arms[1].resident == arms[0].resident
    before = arms[1].infer(images[1], TASK).prediction.tokens
    arms[0].swap("base")
    arms[0].swap("base")
    arms[0].close()
    assert digests[0] in arms[1].resident
    assert arms[1].infer(images[1], TASK, 1).prediction.tokens == before
    assert code_of(lambda: arms[0].infer(images[0], TASK)) == ErrorCode.POLICY_NOT_ACTIVE
    assert code_of(lambda: arms[0].swap("base")) == ErrorCode.POLICY_NOT_ACTIVE


def test_a_bad_image_of_one_arm_is_no_fault_of_the_others(
    arms: list[InferenceEngine], digests: list[str], images: np.ndarray
) -> None:
    for arm, digest in zip(arms, digests, strict=False):
        arm.swap(digest)
    good = at_once(arms, images, 0)
    shown = [images[0], np.zeros((4, 4), np.uint8), images[2]]
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(arms[i].infer, shown[i], TASK, 1) for i in range(3)]
        found = [future.result(60) for future in asked]

    assert [answer.prediction.fault for answer in found] == [0, ErrorCode.POLICY_BAD_IMAGE, 0]
    assert [found[i].prediction.tokens for i in (0, 2)] == [good[i].prediction.tokens for i in (0, 2)]


def test_merged_adapters_are_answered_one_after_the_other(
    policy: VlaPolicy, store: AdapterStore, digests: list[str], images: np.ndarray
) -> None:
    passes = Passes(policy)
    with (
        InferenceEngine(policy, store, merge=True, wait_ms=1500.0) as left,
        InferenceEngine(policy, store, beside=left) as right,
    ):
        arms = [left, right]
        expected = []
        for arm, digest, image in zip(arms, digests, images, strict=False):
            arm.swap(digest)
            expected.append(arm.infer(image, TASK).prediction.tokens)
            arm.rollout_ended()
        at_once(arms, images, 0)
        be_patient(arms)
        passes.sizes.clear()
        assert [a.prediction.tokens for a in at_once(arms, images, 1)] == expected
        assert passes.sizes == [1, 1]
        right.swap(digests[0])
        at_once(arms, images, 2)
        assert passes.sizes == [1, 1, 2], "with one adapter they share the pass"


def test_arms_share_one_policy(policy: VlaPolicy, store: AdapterStore, checkpoint_dir: Path) -> None:
    with InferenceEngine(policy, store) as left:
        other = VlaPolicy.load(checkpoint_dir)
        assert code_of(lambda: InferenceEngine(other, store, beside=left)) == ErrorCode.POLICY_BAD_PARAMETER


def test_no_action_is_a_mixture_while_every_arm_swaps_and_infers(
    policy: VlaPolicy, store: AdapterStore, digests: list[str], images: np.ndarray
) -> None:
    first = InferenceEngine(policy, store, wait_ms=5.0, resident_limit=8)
    arms = [first, *(InferenceEngine(policy, store, beside=first) for _ in range(2))]
    expected = {}
    for digest in digests:
        first.swap(digest)
        for row in range(3):
            expected[digest, row] = first.infer(images[row], TASK).prediction.tokens
    for arm in arms:
        arm.swap(digests[0])
    over, swaps = threading.Event(), []

    def keep_swapping(seed: int) -> None:
        random = np.random.default_rng(seed)
        while not over.wait(0.002):
            swaps.append(arms[seed].swap(str(random.choice(digests))))

    def infer_many(row: int) -> list[Inference]:
        # Until there were enough swaps, whichever of the threads the machine prefers.
        found: list[Inference] = []
        while len(found) < 40 or len(swaps) < 20:
            found.append(arms[row].infer(images[row], TASK, len(found)))
        return found

    with ThreadPoolExecutor(6) as pool:
        swapping = [pool.submit(keep_swapping, index) for index in range(3)]
        inferring = [pool.submit(infer_many, index) for index in range(3)]
        answers = [(row, a) for row, future in enumerate(inferring) for a in future.result(120)]
        over.set()
        for future in swapping:
            future.result(60)
    for arm in arms:
        arm.close()

    assert len(answers) >= 120
    assert [a for row, a in answers if a.prediction.tokens != expected[a.adapter_digest, row]] == []
    assert not any(module._forward_hooks for module in policy.model.modules())


def test_observations_of_different_sizes_are_answered_together(policy: VlaPolicy, images: np.ndarray) -> None:
    large = np.random.default_rng(5).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    asked = [Observation(images[0], TASK), Observation(large, TASK)]
    entered: list[list[int]] = []
    together = policy.act_together(asked, lambda rows: entered.append(list(rows)))
    assert [p.tokens for p in together] == [policy.act(o.image, TASK).tokens for o in asked]
    assert entered == [[0, 1]]


def test_an_observation_of_several_images_has_its_adapter_in_all_of_its_rows() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Sequential(torch.nn.Linear(8, 4))
    slots = AdapterSlots(layer)
    first, second = (slots.stage(random_weights(layer, seed, "0" * 64)) for seed in (1, 2))
    rows = torch.randn(9, 5, 8)  # three observations of three cameras each
    expected = []
    for index, adapter in enumerate((first, None, second)):
        slots.activate(adapter)
        expected.append(layer(rows[3 * index : 3 * index + 3]))
    slots.activate_rows([first, None, second])
    with torch.inference_mode():
        torch.testing.assert_close(layer(rows), torch.cat(expected))
