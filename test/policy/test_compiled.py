"""Compiled functions: the same answers, and nothing that a swap, a rollback or another prompt would compile anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_parts import TASK, code_of, one_layer, stored_edits
from released_parts import write_oft, write_released
from torch._dynamo.utils import counters

from vlaforget_ros.adapters import AdapterStore, LoraWeights
from vlaforget_ros.bench import random_pi0
from vlaforget_ros.errors import ErrorCode
from vlaforget_ros.policy import checkpoint
from vlaforget_ros.policy.compiled import Compiled
from vlaforget_ros.policy.engine import InferenceEngine
from vlaforget_ros.policy.merged import slots_for
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.policy.prompt import build_tokenizer
from vlaforget_ros.policy.tiny import TEXT_IDS, new_tiny, random_weights

INSTRUCTIONS = (TASK, "open the faucet close", "faucet")


def tiny(folder: Path) -> None:
    checkpoint.save(folder, *new_tiny((TASK, "close the window"), seed=1))


FORMS: dict[str, Callable[[Path], Any]] = {
    "tiny": tiny,
    "openvla_7b": write_released,
    "openvla_oft": lambda folder: write_oft(folder, state=7, images=2),
    "pi0_fast": lambda folder: random_pi0.write(folder, (TASK, "close the window")),
}


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    yield
    torch._dynamo.reset()


def loaded(folder: Path, form: str) -> VlaPolicy:
    FORMS[form](folder / form)
    return VlaPolicy.load(folder / form)


def edit(policy: VlaPolicy, rank: int, seed: int, part: str = "") -> LoraWeights:
    generator = torch.Generator().manual_seed(seed)
    names = [
        n for layers in policy.components().values() for layer in layers for n in layer.modules if part in n
    ]
    tensors = {}
    for name in names:
        layer = policy.model.get_submodule(name)
        tensors[name] = (
            0.2 * torch.randn(rank, layer.in_features, generator=generator),
            0.2 * torch.randn(layer.out_features, rank, generator=generator),
        )
    return LoraWeights.from_tensors(tensors, alpha=1.5 * rank, base_digest=policy.base_digest)


def observation(policy: VlaPolicy, seed: int) -> tuple[np.ndarray, np.ndarray | None]:
    config, rng = policy.config, np.random.default_rng(seed)
    shape = (config.featurizer.image_size,) * 2 + (3,)
    state = None if config.state is None else rng.uniform(-1, 1, len(config.state.low))
    return rng.integers(0, 256, shape if config.cameras == 1 else (config.cameras, *shape), np.uint8), state


@pytest.mark.parametrize(
    ("form", "merge"),
    [
        ("tiny", True),
        ("openvla_7b", False),
        ("openvla_oft", False),
        ("openvla_oft", True),
        ("pi0_fast", False),
        ("pi0_fast", True),
    ],
    ids=lambda value: value if isinstance(value, str) else "merged" if value else "factors",
)
def test_swaps_and_prompts_give_the_plain_answers_and_compile_nothing(
    tmp_path: Path, form: str, merge: bool
) -> None:
    plain = loaded(tmp_path, form)
    policy = plain.twin()
    theirs, slots = slots_for(plain.model, merge), slots_for(policy.model, merge, compiled=True)
    compiled = Compiled(policy, slots, backend="eager")
    assert compiled.seconds > 0
    # Where a function would be compiled anew it now is, and counted.
    compiled.stance = "default"
    before = counters["stats"]["unique_graphs"]
    edits = [None, edit(plain, 4, 1), edit(plain, 1, 2, "mlp"), edit(plain, 16, 3), None, edit(plain, 4, 4)]
    answers = set()
    for number, weights in enumerate(edits):
        theirs.activate(None if weights is None else theirs.stage(weights))
        slots.activate(None if weights is None else slots.stage(weights))
        image, state = observation(plain, number)
        for instruction in INSTRUCTIONS:
            expected, found = (one.act(image, instruction, state) for one in (plain, policy))
            assert found.tokens == expected.tokens
            np.testing.assert_allclose(found.action, expected.action, atol=1e-5)
            answers.add(found.tokens)
    assert counters["stats"]["unique_graphs"] == before
    assert len(answers) > 4, "adapters and observations matter"


def test_what_was_not_compiled_runs_plainly_and_waits_for_no_compiler(tmp_path: Path) -> None:
    plain = loaded(tmp_path, "openvla_7b")
    policy = plain.twin()
    theirs, slots = slots_for(plain.model, False), slots_for(policy.model, False, compiled=True)
    Compiled(policy, slots, backend="eager")
    before = counters["stats"]["unique_graphs"]
    both = [edit(plain, 4, 1), edit(plain, 3, 2)]
    theirs.activate_rows([theirs.stage(one) for one in both])
    slots.activate_rows([slots.stage(one) for one in both])
    images = np.stack([observation(plain, seed)[0] for seed in (0, 1)])
    expected = plain.act_batch(images, [TASK, TASK])
    assert [one.tokens for one in policy.act_batch(images, [TASK, TASK])] == [one.tokens for one in expected]
    slots.activate(slots.stage(both[0]))
    theirs.activate(theirs.stage(both[0]))
    told = " ".join(["faucet"] * 300)
    assert policy.act(images[0], told).tokens == plain.act(images[0], told).tokens
    assert counters["stats"]["unique_graphs"] == before


@pytest.mark.parametrize("merge", [False, True], ids=["factors", "merged"])
def test_the_engine_swaps_beneath_real_compiled_code(
    tmp_path: Path, merge: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    tokenizer = build_tokenizer([TASK], TEXT_IDS)
    plain = VlaPolicy(random_weights(one_layer(tokenizer), seed=1).eval(), tokenizer, "0" * 64)
    store = AdapterStore(tmp_path / "store")
    digests = stored_edits(store, plain.model, plain.base_digest, 2)
    digests.append(store.add_weights(edit(plain, 7, 5), {"name": "other", "method": "test"}).digest)
    image, state = observation(plain, 0)
    answers = []
    with (
        InferenceEngine(plain.twin(), store, merge=merge) as expected,
        InferenceEngine(plain.twin(), store, merge=merge, compiled=True) as engine,
    ):
        assert engine.compile_seconds is not None
        assert expected.compile_seconds is None
        before = counters["stats"]["unique_graphs"]
        assert before > 0
        for change in (*digests, "base", "rollback", digests[0]):
            for one in (expected, engine):
                one.rollback("test") if change == "rollback" else one.swap(change)
            found = engine.infer(image, TASK, 0, state).prediction
            assert found.tokens == expected.infer(image, TASK, 0, state).prediction.tokens
            answers.append(found.tokens)
            for one in (expected, engine):
                one.rollout_ended()
        assert counters["stats"]["unique_graphs"] == before
    assert len(set(answers)) > 2


def test_a_policy_that_cannot_be_compiled_is_refused_and_serves_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = loaded(tmp_path, "tiny")
    image, _ = observation(policy, 0)
    before = policy.act(image, TASK).tokens

    def broken(graph: object, inputs: object) -> Callable[..., Any]:
        raise RuntimeError("no compiler")

    slots = slots_for(policy.model, False, compiled=True)
    assert code_of(lambda: Compiled(policy, slots, backend=broken)) == ErrorCode.POLICY_BAD_PARAMETER  # type: ignore[arg-type, return-value]
    assert policy.act(image, TASK).tokens == before
    slots.remove()
    # The engine says the same, and leaves nothing behind.
    monkeypatch.setattr("vlaforget_ros.policy.served_model.Compiled", partial(Compiled, backend=broken))  # type: ignore[arg-type]
    store = AdapterStore(tmp_path / "store")
    refused = code_of(lambda: InferenceEngine(policy, store, compiled=True))  # type: ignore[arg-type, return-value]
    assert refused == ErrorCode.POLICY_BAD_PARAMETER
    with InferenceEngine(policy, store) as engine:
        assert engine.infer(image, TASK).prediction.tokens == before


def test_rounded_weights_are_not_compiled(tmp_path: Path) -> None:
    FORMS["openvla_7b"](tmp_path / "released")
    policy = VlaPolicy.load(tmp_path / "released", weights="int8")
    store = AdapterStore(tmp_path / "store")
    assert code_of(lambda: InferenceEngine(policy, store, compiled=True)) == ErrorCode.POLICY_BAD_PARAMETER  # type: ignore[arg-type, return-value]
