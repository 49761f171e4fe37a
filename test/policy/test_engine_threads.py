"""The engine around a network of three layers: thousands of swaps, staging, rollbacks, failing models."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from engine_parts import TASK, code_of, random_weights
from torch import nn

from vlaforget_ros.adapters import LoraWeights
from vlaforget_ros.errors import ErrorCode
from vlaforget_ros.policy.engine import Inference, InferenceEngine
from vlaforget_ros.policy.policy import Prediction


class LinearPolicy:
    """A network of three linear layers behind the protocol of a policy: thousands of inferences a second."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 4)).eval()
        self.base_digest = "ab" * 32
        self.fail_with: Exception | None = None
        self.output: float | None = None

    def act(self, image: np.ndarray, instruction: str, state: np.ndarray | None = None) -> Prediction:
        if self.fail_with is not None:
            raise self.fail_with
        with torch.inference_mode():
            action = self.model(torch.full((1, 16), float(image.flat[0]) / 255.0))[0].numpy()
        return Prediction(
            action if self.output is None else np.full(4, self.output, np.float32), (1, 2, 3, 4)
        )

    def hold_step(self, state: np.ndarray | None = None) -> np.ndarray:
        return np.zeros(4, np.float32)

    def steps(self, action: np.ndarray) -> np.ndarray:
        return action[None]


class MemorySource:
    """Adapters in memory, so that only the engine is at work; counts and can hold up what is loaded."""

    def __init__(self, policy: LinearPolicy, count: int) -> None:
        self.weights = {
            f"{i:064x}": random_weights(policy.model, i, policy.base_digest).with_digests(
                f"{i:064x}", policy.base_digest
            )
            for i in range(1, count + 1)
        }
        self.loads: list[str] = []
        self.loading, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()

    def resolve(self, reference: str) -> str:
        return "" if reference == "base" else reference

    def load(self, digest: str, *, base_digest: str | None = None) -> LoraWeights:
        self.loads.append(digest)
        self.loading.set()
        assert self.go_on.wait(60)
        return self.weights[digest]

    def manifests(self) -> list:
        return []

    def aliases(self) -> dict[str, str]:
        return {}

    def signer(self, digest: str) -> str:
        return ""

    def check_revoked(self, digest: str) -> None:
        pass

    def check_rollback(self, digest: str, *, by_operator: bool) -> None:
        pass

    def record(self, event: str, digest: str, **details: object) -> None:
        pass


@pytest.fixture
def quick() -> Iterator[tuple[InferenceEngine, LinearPolicy, MemorySource]]:
    policy = LinearPolicy()
    source = MemorySource(policy, 6)
    with InferenceEngine(policy, source, resident_limit=3) as running:
        yield running, policy, source


IMAGE = np.full((2, 2, 3), 200, np.uint8)


def test_none_of_thousands_of_actions_is_a_mixture(
    quick: tuple[InferenceEngine, LinearPolicy, MemorySource],
) -> None:
    engine, _, source = quick
    expected = {}
    for digest in ["", *source.weights]:
        engine.swap(digest)
        expected[digest] = engine.infer(IMAGE, TASK).prediction.action.copy()

    seen: set[str] = set()

    def swap_many(seed: int) -> None:
        # Until each adapter had its turn, whichever of the threads the machine prefers.
        chooser, swaps = np.random.default_rng(seed), 0
        while swaps < 1500 or len(seen) < len(expected):
            engine.swap(str(chooser.choice(["", *source.weights])))
            swaps += 1

    def infer_many(_: int) -> list[Inference]:
        found: list[Inference] = []
        while len(found) < 1500 or not all(future.done() for future in swapping):
            found.append(engine.infer(IMAGE, TASK, len(found)))
            seen.add(found[-1].adapter_digest)
        return found

    with ThreadPoolExecutor(4) as pool:
        swapping = [pool.submit(swap_many, seed) for seed in range(2)]
        inferring = [pool.submit(infer_many, index) for index in range(2)]
        answers = [answer for future in inferring for answer in future.result(150)]
        for future in swapping:
            future.result()

    mixed = [a for a in answers if not np.array_equal(a.prediction.action, expected[a.adapter_digest])]
    assert len(answers) >= 3000
    assert mixed == []
    assert len({answer.adapter_digest for answer in answers}) == 7
    assert len(engine.resident) <= 3


def test_inference_goes_on_while_an_adapter_is_staged(
    quick: tuple[InferenceEngine, LinearPolicy, MemorySource],
) -> None:
    engine, _, source = quick
    target = next(iter(source.weights))
    source.go_on.clear()
    with ThreadPoolExecutor(1) as pool:
        swap = pool.submit(engine.swap, target)
        assert source.loading.wait(60)
        during = [engine.infer(IMAGE, TASK, step) for step in range(20)]
        source.go_on.set()
        result = swap.result(60)

    assert {answer.adapter_digest for answer in during} == {""}
    assert result.effective_step == 20
    assert engine.infer(IMAGE, TASK, 20).adapter_digest == target


def test_a_rollback_during_staging_wins(quick: tuple[InferenceEngine, LinearPolicy, MemorySource]) -> None:
    engine, _, source = quick
    first, second = list(source.weights)[:2]
    engine.swap(first)
    source.loading.clear()
    source.go_on.clear()
    with ThreadPoolExecutor(1) as pool:
        swap = pool.submit(engine.swap, second)
        assert source.loading.wait(60)
        assert engine.rollback("stop that").active_digest == ""
        source.go_on.set()
        assert code_of(lambda: swap.result(60)) == ErrorCode.ADAPTER_SUPERSEDED

    assert engine.active_digest == ""


def test_rollbacks_never_load_and_walk_back_to_the_base(
    quick: tuple[InferenceEngine, LinearPolicy, MemorySource],
) -> None:
    engine, _, source = quick
    first, second, third, fourth = list(source.weights)[:4]
    for digest in (first, second, third, fourth):
        engine.swap(digest)
    assert engine.resident == (second, third, fourth)
    loads = list(source.loads)

    walked = [engine.rollback("back").active_digest for _ in range(3)]

    assert walked == [third, second, ""]
    assert code_of(lambda: engine.rollback("back")) == ErrorCode.ADAPTER_NO_PREVIOUS
    assert engine.swap(fourth).staged_ms == 0.0
    assert source.loads == loads


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), ErrorCode.POLICY_OUT_OF_MEMORY),
        (MemoryError(), ErrorCode.POLICY_OUT_OF_MEMORY),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), ErrorCode.POLICY_OUT_OF_MEMORY),
        (RuntimeError("shapes cannot be multiplied"), ErrorCode.POLICY_MODEL_FAILED),
        (ValueError("anything"), ErrorCode.POLICY_MODEL_FAILED),
    ],
)
def test_a_failing_model_holds_the_arm_and_the_engine_lives_on(
    quick: tuple[InferenceEngine, LinearPolicy, MemorySource], error: Exception, code: ErrorCode
) -> None:
    engine, policy, _ = quick
    good = engine.infer(IMAGE, TASK)
    policy.fail_with = error

    failed = engine.infer(IMAGE, TASK)
    policy.fail_with = None

    assert failed.prediction.fault == code
    assert failed.message
    assert np.array_equal(failed.prediction.action, policy.hold_step())
    assert np.array_equal(engine.infer(IMAGE, TASK).prediction.action, good.prediction.action)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_non_finite_action_becomes_the_hold_action(
    quick: tuple[InferenceEngine, LinearPolicy, MemorySource], value: float
) -> None:
    engine, policy, _ = quick
    policy.output = value

    answer = engine.infer(IMAGE, TASK)

    assert answer.prediction.fault == ErrorCode.POLICY_NON_FINITE_ACTION
    assert np.array_equal(answer.prediction.action, policy.hold_step())


def test_staging_without_memory_frees_idle_adapters_and_then_gives_up_with_204(
    quick: tuple[InferenceEngine, LinearPolicy, MemorySource], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, _, source = quick
    first, second, third, fourth = list(source.weights)[:4]
    for digest in (first, second, third):
        engine.swap(digest)
    stage, failures = engine._model.slots.stage, [2]

    def short_of_memory(weights: LoraWeights) -> object:
        if failures[0]:
            failures[0] -= 1
            raise torch.OutOfMemoryError("CUDA out of memory")
        return stage(weights)

    monkeypatch.setattr(engine._model.slots, "stage", short_of_memory)

    assert code_of(lambda: engine.swap(fourth)) == ErrorCode.POLICY_OUT_OF_MEMORY
    assert engine.active_digest == third
    assert engine.resident == (second, third)
    failures[0] = 1
    assert engine.swap(fourth).active_digest == fourth


def test_latency_percentiles_come_from_the_clock_of_the_engine() -> None:
    policy = LinearPolicy()
    times = iter(value for step in range(1, 101) for value in (float(step), step + step * 1e-3))
    with InferenceEngine(policy, MemorySource(policy, 1), clock=lambda: next(times)) as engine:
        assert engine.latency().count == 0
        answers = [engine.infer(IMAGE, TASK, step) for step in range(100)]
        latency = engine.latency()

    assert answers[4].inference_ms == pytest.approx(5.0)
    assert latency.count == 100
    assert latency.p50_ms == pytest.approx(50.5)
    assert latency.p99_ms == pytest.approx(99.01)
