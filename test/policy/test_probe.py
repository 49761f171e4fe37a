"""An adapter is tried on a twin of the policy: what is refused, and that what serves is neither touched nor asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_parts import TASK, random_weights

from vlaforget_ros.adapters import AdapterStore, LoraModule, LoraWeights
from vlaforget_ros.errors import AdapterError, ErrorCode, PolicyError
from vlaforget_ros.policy.engine import InferenceEngine
from vlaforget_ros.policy.merged import slots_for
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.policy.probe import Observation, Probe, fixed_observations
from vlaforget_ros.policy.slots import AdapterSlots, StagedAdapter

WORDS = "language_model.model.layers.0.mlp.down_proj"


@pytest.fixture(params=[False, True], ids=["factors", "merged"])
def merge(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def weights_of(policy: VlaPolicy, scale: float) -> LoraWeights:
    """A rank-1 adapter of one layer of the language model."""
    layer = policy.model.get_submodule(WORDS)
    a, b = torch.ones(1, layer.in_features), torch.full((layer.out_features, 1), scale)
    return LoraWeights({WORDS: LoraModule(a, b, alpha=1.0)})


def test_a_twin_shares_every_weight_and_no_adapter(
    policy: VlaPolicy, images: np.ndarray, merge: bool
) -> None:
    twin = policy.twin()
    before = policy.act(images[0], TASK)
    for own, other in zip(policy.model.parameters(), twin.model.parameters(), strict=True):
        assert own.data_ptr() == other.data_ptr()
    slots = slots_for(twin.model, merge)
    slots.activate(slots.stage(random_weights(twin.model, 0, twin.base_digest)))
    assert twin.act(images[0], TASK).tokens != before.tokens
    assert policy.act(images[0], TASK).tokens == before.tokens
    with pytest.raises(RuntimeError, match="attached"):
        AdapterSlots(policy.model) and policy.twin()


def test_a_good_adapter_passes_and_what_serves_keeps_its_own(
    policy: VlaPolicy, images: np.ndarray, merge: bool
) -> None:
    probe = Probe(policy, [TASK], merge=merge, slowdown=100.0)
    slots = slots_for(policy.model, merge)
    one, other = (slots.stage(random_weights(policy.model, seed, policy.base_digest)) for seed in (0, 1))
    slots.activate(one)
    expected = policy.act(images[0], TASK)
    assert probe.check(other, one, Observation(images[1], TASK)) > 0
    assert policy.act(images[0], TASK).tokens == expected.tokens


def test_one_that_overflows_is_refused(policy: VlaPolicy, merge: bool) -> None:
    probe = Probe(policy, [TASK], merge=merge)
    slots = slots_for(policy.model, merge)
    with pytest.raises(AdapterError, match=r"not finite|no action|fails") as caught:
        probe.check(slots.stage(weights_of(policy, 1e38)), None)
    assert caught.value.code == ErrorCode.ADAPTER_PROBE_FAILED


def slow_clock(pattern: list[float]) -> Callable[[], float]:
    """A clock by which every second reading is later by the next number of seconds, over and over."""
    now, readings = [0.0], count()

    def clock() -> float:
        place = next(readings)
        if place % 2:
            now[0] += pattern[(place // 2) % len(pattern)]
        return now[0]

    return clock


def test_one_that_is_much_slower_than_the_active_one_is_refused(policy: VlaPolicy) -> None:
    def staged(probe: Probe) -> StagedAdapter:
        return probe._slots.stage(weights_of(policy, 0.0))

    fast = Probe(policy, [TASK], slowdown=3.0, clock=slow_clock([0.1, 0.25]))
    assert fast.check(staged(fast), None) == pytest.approx(2.5)
    slow = Probe(policy, [TASK], slowdown=3.0, clock=slow_clock([0.1, 0.5]))
    with pytest.raises(AdapterError, match=r"5\.0 times as long") as caught:
        slow.check(staged(slow), None)
    assert caught.value.limit == "3 times"
    # One slow round on a busy machine is no slow adapter.
    busy = Probe(policy, [TASK], slowdown=3.0, clock=slow_clock([0.1, 0.9, 0.1, 0.2]))
    assert busy.check(staged(busy), None) == pytest.approx(2.0)
    # Nor are all rounds of the first few.
    unlucky = Probe(policy, [TASK], slowdown=3.0, clock=slow_clock([0.1, 0.9] * 8 + [0.1, 0.2]))
    assert unlucky.check(staged(unlucky), None) == pytest.approx(2.0)


def test_fixed_observations_are_the_same_each_time_and_instructions_are_checked(policy: VlaPolicy) -> None:
    first, second = fixed_observations(policy, [TASK]), fixed_observations(policy, [TASK])
    assert len(first) == 2
    assert all(np.array_equal(a.image, b.image) for a, b in zip(first, second, strict=True))
    assert not np.array_equal(first[0].image, first[1].image)
    with pytest.raises(PolicyError) as caught:
        Probe(policy, ["an unheard word"])
    assert caught.value.code == ErrorCode.POLICY_UNKNOWN_INSTRUCTION


def test_nothing_to_try_passes(policy: VlaPolicy) -> None:
    probe = Probe(policy)
    assert probe.check(probe._slots.stage(weights_of(policy, 1e38)), None) == 1.0


@pytest.fixture
def engine(policy: VlaPolicy, tmp_path: Path) -> Iterator[InferenceEngine]:
    probe = Probe(policy, slowdown=100.0)
    with InferenceEngine(policy, AdapterStore(tmp_path / "store"), probe=probe) as running:
        yield running


def test_the_engine_refuses_what_the_probe_refuses_and_serves_on(
    engine: InferenceEngine, policy: VlaPolicy, images: np.ndarray
) -> None:
    store: AdapterStore = engine._source  # type: ignore[assignment]
    good = store.add_weights(
        random_weights(policy.model, 0, policy.base_digest), {"name": "good", "method": "test"}
    )
    bad = store.add_weights(
        weights_of(policy, 1e38).with_digests("", policy.base_digest), {"name": "bad", "method": "test"}
    )
    # Nothing was served and no instruction is known: there is nothing to try it on.
    engine.swap("good")
    expected = engine.infer(images[0], TASK)
    with pytest.raises(AdapterError) as caught:
        engine.swap("bad")
    assert caught.value.code == ErrorCode.ADAPTER_PROBE_FAILED
    assert engine.infer(images[0], TASK).prediction.tokens == expected.prediction.tokens
    assert engine.active_digest == good.digest
    assert bad.digest not in engine.resident
