"""The engine: who made an action is never in doubt; what is refused or fails never changes who serves."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from engine_parts import TASK, code_of, random_weights, stored_edits

from vlaforget_ros.adapters import AdapterStore, LoraModule, LoraWeights, write_peft
from vlaforget_ros.errors import AdapterError, ErrorCode
from vlaforget_ros.policy.engine import Inference, InferenceEngine
from vlaforget_ros.policy.policy import VlaPolicy


@pytest.fixture
def store(tmp_path: Path) -> AdapterStore:
    return AdapterStore(tmp_path / "store")


@pytest.fixture
def digests(policy: VlaPolicy, store: AdapterStore) -> list[str]:
    return stored_edits(store, policy.model, policy.base_digest, 3)


@pytest.fixture(params=[False, True], ids=["factors", "merged"])
def engine(
    policy: VlaPolicy, store: AdapterStore, digests: list[str], request: pytest.FixtureRequest
) -> Iterator[InferenceEngine]:
    with InferenceEngine(policy, store, merge=request.param) as running:
        yield running


def reference_tokens(
    engine: InferenceEngine, digests: list[str], image: np.ndarray
) -> dict[str, tuple[int, ...]]:
    found = {}
    for digest in ["", *digests]:
        engine.swap(digest)
        found[digest] = engine.infer(image, TASK).prediction.tokens
    return found


def test_swap_and_rollback_say_what_happened(
    engine: InferenceEngine, digests: list[str], images: np.ndarray, store: AdapterStore
) -> None:
    assert engine.swap("edit-0").effective_step == -1
    engine.infer(images[0], TASK, step=6)

    swapped = engine.swap(digests[1][:10])
    following = engine.infer(images[0], TASK, step=7)
    back = engine.rollback("too fast")
    again = engine.swap("edit-1")
    engine.rollout_ended()
    to_base = engine.swap("base")

    assert (swapped.previous_digest, swapped.active_digest) == (digests[0], digests[1])
    assert swapped.staged_ms > 0
    assert swapped.swap_ms >= 0
    assert swapped.effective_step == 7
    assert following.adapter_digest == digests[1]
    assert (back.previous_digest, back.active_digest, back.staged_ms) == (digests[1], digests[0], 0.0)
    assert back.effective_step == 8
    assert (again.active_digest, again.staged_ms) == (digests[1], 0.0)
    assert (to_base.active_digest, to_base.effective_step) == ("", -1)
    assert engine.active_digest == ""
    events = [(e["event"], e["digest"], e.get("reason")) for e in store.history() if e["event"] != "added"]
    assert events[2] == ("rollback", digests[0], "too fast")
    assert [event for event, _, _ in events] == ["swap", "swap", "rollback", "swap", "swap"]


def test_every_action_is_that_of_its_digest_under_concurrent_swaps(
    engine: InferenceEngine, digests: list[str], images: np.ndarray
) -> None:
    """The real network: two threads swap, one rolls back now and then, beside a stream of inferences."""
    expected = reference_tokens(engine, digests, images[0])
    assert len(set(expected.values())) == 4
    done, codes, swaps = threading.Event(), [], []

    def keep_swapping(seed: int) -> None:
        chooser = np.random.default_rng(seed)
        while not done.is_set():
            try:
                swaps.append(engine.swap(str(chooser.choice(["base", *digests]))))
            except AdapterError as error:
                codes.append(error.code)

    with ThreadPoolExecutor(2) as pool:
        busy = [pool.submit(keep_swapping, seed) for seed in range(2)]
        answers: list[Inference] = []
        seen: set[str] = set()
        # Until there were enough swaps and each adapter had its turn, whichever of the threads the machine prefers.
        try:
            while len(answers) < 120 or len(swaps) < 60 or seen != set(expected):
                answers.append(engine.infer(images[0], TASK, len(answers)))
                seen.add(answers[-1].adapter_digest)
                if len(answers) % 20 == 10:
                    engine.rollback("test")
        finally:
            done.set()
        for future in busy:
            future.result(60)

    mixed = [a for a in answers if a.prediction.tokens != expected[a.adapter_digest]]
    assert mixed == []
    assert set(codes) <= {ErrorCode.ADAPTER_SUPERSEDED}


def test_rollback_works_with_the_store_gone(
    engine: InferenceEngine, digests: list[str], store: AdapterStore, images: np.ndarray
) -> None:
    expected = reference_tokens(engine, digests, images[0])
    shutil.rmtree(store.root)
    store.root.write_text("not a directory any more")

    result = engine.rollback("disk died")

    assert result.active_digest == digests[1]
    assert engine.infer(images[0], TASK).prediction.tokens == expected[digests[1]]


def test_rollback_works_with_the_disk_full(
    engine: InferenceEngine, digests: list[str], store: AdapterStore, caplog: pytest.LogCaptureFixture
) -> None:
    engine.swap(digests[0])
    (store.root / "history.jsonl").unlink()
    (store.root / "history.jsonl").symlink_to("/dev/full")

    assert engine.rollback("disk full").active_digest == ""
    assert "not in the history" in caplog.text


def spoil(kind: str, policy: VlaPolicy, store: AdapterStore, staging: Path) -> str:
    """Put an unusable adapter where the engine will find it; returns its reference."""
    named = {"name": kind, "method": "test"}
    good = random_weights(policy.model, 9, policy.base_digest)
    if kind == "other base":
        other = LoraWeights(good.modules, "0" * 64)
        return store.add_weights(other, {**named, "name": "other"}).digest
    if kind == "unknown layer":
        moved = {f"{name}.more": module for name, module in good.modules.items()}
        return store.add_weights(LoraWeights(moved, good.base_digest), {**named, "name": "layer"}).digest
    if kind == "bad shape":
        small = {n: LoraModule(m.a[:, 1:].contiguous(), m.b, m.alpha) for n, m in good.modules.items()}
        return store.add_weights(LoraWeights(small, good.base_digest), {**named, "name": "shape"}).digest
    write_peft(good, staging)
    digest = store.add(staging, {**named, "name": "changed"}).digest
    path = store.path(digest) / "adapter_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-4:] = np.float32(np.nan).tobytes()
    path.write_bytes(content)
    return digest


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("other base", ErrorCode.ADAPTER_BASE_MISMATCH),
        ("unknown layer", ErrorCode.ADAPTER_BAD_SHAPE),
        ("bad shape", ErrorCode.ADAPTER_BAD_SHAPE),
        ("NaN written into the file", ErrorCode.ADAPTER_BAD_DIGEST),
    ],
)
def test_a_refused_swap_leaves_the_active_adapter_bit_for_bit(
    engine: InferenceEngine,
    policy: VlaPolicy,
    store: AdapterStore,
    digests: list[str],
    images: np.ndarray,
    tmp_path: Path,
    kind: str,
    code: ErrorCode,
) -> None:
    engine.swap(digests[0])
    before = engine.infer(images[0], TASK)
    logits = logits_of(policy, images)
    reference = spoil(kind, policy, store, tmp_path / "staging")

    assert code_of(lambda: engine.swap(reference)) == code
    assert code_of(lambda: engine.swap("edit-00")) == ErrorCode.ADAPTER_UNKNOWN

    after = engine.infer(images[0], TASK)
    assert (after.adapter_digest, after.prediction.tokens) == (digests[0], before.prediction.tokens)
    assert torch.equal(logits_of(policy, images), logits)
    assert engine.previous_digest == ""
    assert engine.resident == (digests[0],)


def test_an_adapter_without_room_leaves_the_active_one(
    engine: InferenceEngine, digests: list[str], images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.swap(digests[0])
    before = engine.infer(images[0], TASK)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=1000))
    assert code_of(lambda: engine.swap(digests[1])) == ErrorCode.POLICY_OUT_OF_MEMORY
    after = engine.infer(images[0], TASK)
    assert (after.adapter_digest, after.prediction.tokens) == (digests[0], before.prediction.tokens)
    assert engine.rollback("needs no room").active_digest == ""


def test_idle_adapters_make_room_before_one_is_refused(
    engine: InferenceEngine, digests: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for reference in (*digests[:2], "base"):
        engine.swap(reference)
    before = len(engine.resident)

    def memory() -> SimpleNamespace:
        return SimpleNamespace(available=1e12 if len(engine.resident) < before else 1000)

    monkeypatch.setattr("psutil.virtual_memory", memory)
    assert engine.swap(digests[2]).active_digest == digests[2]
    assert digests[0] not in engine.resident


def logits_of(policy: VlaPolicy, images: np.ndarray) -> torch.Tensor:
    """Called between two calls to the engine, so its thread is idle."""
    batch = policy.encode(images[:1], [TASK], np.zeros((1, policy.codec.dims)))
    with torch.inference_mode():
        return policy.action_logits(batch)


def test_bad_input_is_a_fault_with_the_policys_own_code(engine: InferenceEngine, images: np.ndarray) -> None:
    unknown = engine.infer(images[0], "juggle the faucet")
    assert unknown.prediction.fault == ErrorCode.POLICY_UNKNOWN_INSTRUCTION
    assert "juggle" in unknown.message
    assert engine.infer(images[0, 0], TASK).prediction.fault == ErrorCode.POLICY_BAD_IMAGE


def test_the_list_of_adapters_shows_aliases_and_residence(
    engine: InferenceEngine, digests: list[str], store: AdapterStore, policy: VlaPolicy
) -> None:
    store.alias("candidate", digests[1])
    engine.swap("candidate")

    listed = {info.digest: info for info in engine.adapters()}

    assert list(listed) == digests
    assert listed[digests[1]].aliases == ("candidate",)
    assert [info.resident for info in listed.values()] == [False, True, False]
    assert listed[digests[0]].base_digest == policy.base_digest
    assert listed[digests[0]].rank == 4


def test_a_closed_engine_refuses_and_gives_back_the_base_model(
    engine: InferenceEngine, digests: list[str], images: np.ndarray, policy: VlaPolicy
) -> None:
    base = engine.infer(images[0], TASK)
    engine.swap(digests[0])

    engine.close()
    engine.close()

    assert policy.act(images[0], TASK).tokens == base.prediction.tokens
    for call in (
        lambda: engine.infer(images[0], TASK),
        lambda: engine.swap("base"),
        lambda: engine.rollback("late"),
    ):
        assert code_of(call) == ErrorCode.POLICY_NOT_ACTIVE
