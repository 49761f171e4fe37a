"""Memory: smaller passes with the same gradient, what is said about them, and the end where nothing helps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vlaforget_ros.errors import ErrorCode, UnlearningError
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.unlearning.bank import Bank
from vlaforget_ros.unlearning.data import EditData
from vlaforget_ros.unlearning.edit import EditSettings, edit, prepare
from vlaforget_ros.unlearning.guard import Guard
from vlaforget_ros.unlearning.methods import METHODS, make_method
from vlaforget_ros.unlearning.methods.ga import Ga
from vlaforget_ros.unlearning.methods.task_vector import TaskVector
from vlaforget_ros.unlearning.methods.vla_forget import VlaForget
from vlaforget_ros.unlearning.network import Output
from vlaforget_ros.unlearning.steps import Step
from vlaforget_ros.unlearning.views import Terms, Views

SMALL: dict[str, Any] = {
    "batch_forget": 4, "batch_retain": 8, "batch_boundary": 4, "batch_counterfactual": 4, "score_frames": 8,
    "rank": 4, "lora_alpha": 8,
}  # fmt: skip
OutOfMemory = Callable[[], Exception]
KINDS: list[OutOfMemory] = [
    lambda: torch.OutOfMemoryError("CUDA out of memory"),
    lambda: RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"),
]


def with_key(settings: EditSettings, key: str, **own: Any) -> EditSettings:
    return replace(settings, method=make_method(key, METHODS[key].Parameters(**{**SMALL, **own})))


def short_of_memory(
    monkeypatch: pytest.MonkeyPatch, limit: int, error: OutOfMemory, after: int = 0
) -> list[int]:
    """Training passes of more than ``limit`` frames run out of memory, from pass ``after`` on; sizes of all."""
    forward, sizes = Bank.forward, list[int]()

    def limited(self: Bank, rows: np.ndarray) -> Output:
        if torch.is_grad_enabled():
            sizes.append(len(rows))
            if len(rows) > limit and len(sizes) > after:
                raise error()
        return forward(self, rows)

    monkeypatch.setattr(Bank, "forward", limited)
    return sizes


@pytest.mark.parametrize("error", KINDS, ids=["gpu", "cpu"])
def test_running_out_of_memory_makes_passes_smaller_and_the_edit_says_so(
    base_dir: Path, data: EditData, settings: EditSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    error: OutOfMemory,
) -> None:  # fmt: skip
    own = with_key(settings, "npo", steps=3)
    whole = edit(VlaPolicy.load(base_dir), data, own, tmp_path / "whole", Guard(3600, 1e6))
    sizes = short_of_memory(monkeypatch, limit=2, error=error)
    result = edit(VlaPolicy.load(base_dir), data, own, tmp_path / "small", Guard(3600, 1e6))
    # Batches of 8: the passes are halved to 4, which is still too much, and to 2.
    assert result.rounds[0].micro_batch == 2
    assert sizes[0] == 8
    assert set(sizes[sizes.index(2) :]) == {2}
    (remark,) = result.remarks
    assert remark == "joint-1 was run with passes of at most 2 frames of each set"
    assert whole.rounds[0].micro_batch == 0
    assert whole.remarks == ()
    # The same edit, up to rounding.
    for left, right in zip(whole.rounds[0].curve, result.rounds[0].curve, strict=True):
        assert left == pytest.approx(right, rel=1e-3, abs=1e-3)
    assert result.after.undesired == pytest.approx(whole.after.undesired, rel=1e-3)


def test_where_not_even_one_frame_fits_the_edit_ends_with_306_and_keeps_what_was_finished(
    base_dir: Path, data: EditData, settings: EditSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = with_key(settings, "task_vector", steps=2)
    finish = TaskVector.finish

    def then_full(self: TaskVector, *arguments: Any) -> None:
        finish(self, *arguments)
        short_of_memory(monkeypatch, limit=0, error=KINDS[0])

    monkeypatch.setattr(TaskVector, "finish", then_full)
    with pytest.raises(UnlearningError) as error:
        edit(VlaPolicy.load(base_dir), data, own, tmp_path, Guard(3600, 1e6))
    assert error.value.code == ErrorCode.UNLEARNING_OUT_OF_MEMORY
    assert {path.name for path in (tmp_path / "stages").iterdir()} == {
        "negate-1.json",
        "negate-1.safetensors",
    }


def test_passes_are_halved_down_to_one_frame_and_no_further(
    base_dir: Path, data: EditData, settings: EditSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = short_of_memory(monkeypatch, limit=0, error=KINDS[1])
    with pytest.raises(UnlearningError, match="306"):
        edit(
            VlaPolicy.load(base_dir),
            data,
            with_key(settings, "ga", counterfactual_weight=0),
            tmp_path,
            Guard(9e9, 1e9),
        )
    # Batches of 4 frames of D_f beside 8 of D_r, of which the loss does not ask: 8 is halved to 4, 2 and 1.
    assert sizes == [4, 4, 2, 1]


def opened(base_dir: Path, data: EditData, settings: EditSettings, **own: Any) -> Callable[[int], Step]:
    """Steps on one and the same batch, by micro-batch, of a staged edit from the first visual block up."""
    kept = settings.method.parameters.model_copy(update=own)
    bench = prepare(
        VlaPolicy.load(base_dir), data, replace(settings, method=VlaForget(kept)), Guard(3600, 1e6)
    )
    layers = [layer.name for part in ("visual", "projector", "language") for layer in bench.layers[part]]
    bench.enter_at(bench.network.entry(layers))
    modules = bench.modules(layers)
    bench.adapter.add(modules, seed=1)
    factors = bench.adapter.train(modules)
    with torch.no_grad():
        for place, factor in enumerate(factors):
            factor.add_(0.05 * torch.randn(factor.shape, generator=torch.Generator().manual_seed(place)))
    rows = {name: own_rows[:8] for name, own_rows in bench.rows.train.items()}
    rows["boundary"] = rows["boundary"][:3]
    return lambda size: Step(1, 1, bench.banks, rows, factors, size)


@pytest.mark.parametrize("size", [4, 3, 1, 64])
def test_the_gradient_of_small_passes_is_that_of_the_whole_batch(
    base_dir: Path, data: EditData, settings: EditSettings, size: int
) -> None:
    # Dividing the batches (8, 8, 3, 8) evenly or not, with features, KL and all: it is the same loss.
    make, method = opened(base_dir, data, settings), settings.method
    for loss in (method.forget, method.retain):
        whole, small = make(0), make(size)
        expected, found = whole.gradient(loss), small.gradient(loss)
        assert small.losses == pytest.approx(whole.losses, rel=1e-5, abs=1e-6)
        assert max(float(part.abs().max()) for part in expected) > 1e-3
        for left, right in zip(found, expected, strict=True):
            torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)


def test_no_pass_is_larger_than_asked_for(
    base_dir: Path, data: EditData, settings: EditSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = opened(base_dir, data, settings)(3)
    sizes = short_of_memory(monkeypatch, limit=10**9, error=KINDS[0])
    step.gradient(settings.method.retain)
    # D_r and D_c: 3, 3, 2; D_b: 3; each once for the loss and once for its gradient.
    assert sorted(sizes) == sorted(2 * [3, 3, 2, 3, 3, 2, 3])


def test_checkpointing_gives_the_same_gradient(
    base_dir: Path, data: EditData, settings: EditSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vlaforget_ros.unlearning import network

    plain, recomputed = (
        opened(base_dir, data, settings),
        opened(base_dir, data, settings, gradient_checkpointing=True),
    )
    used, checkpoint = list[int](), network.checkpoint

    def counted(*arguments: Any, **keywords: Any) -> Any:
        used.append(1)
        return checkpoint(*arguments, **keywords)

    monkeypatch.setattr(network, "checkpoint", counted)
    for loss in (settings.method.forget, settings.method.retain):
        before = len(used)
        expected = plain(0).gradient(loss)
        assert len(used) == before
        found = recomputed(0).gradient(loss)
        for left, right in zip(found, expected, strict=True):
            torch.testing.assert_close(left, right, rtol=0, atol=1e-6)
    # Every block of the encoder and of the language model, for each of the four sets.
    assert len(used) == 4 * (2 + 3)


def test_training_in_bf16_runs_and_stays_finite(
    base_dir: Path, data: EditData, settings: EditSettings, tmp_path: Path
) -> None:
    exact, coarse = opened(base_dir, data, settings), opened(base_dir, data, settings, autocast="bf16")
    for loss in (settings.method.forget, settings.method.retain):
        expected, found = exact(0).gradient(loss), coarse(0).gradient(loss)
        left, right = (torch.cat([part.flatten() for part in parts]) for parts in (expected, found))
        assert torch.isfinite(right).all()
        # bf16 has 8 bits: the same direction, not the same number.
        assert torch.nn.functional.cosine_similarity(left, right, dim=0) > 0.98
        assert not torch.equal(left, right)
    result = edit(
        VlaPolicy.load(base_dir),
        data,
        with_key(settings, "npo", steps=3, autocast="bf16"),
        tmp_path,
        Guard(9e9, 1e9),
    )
    assert all(torch.isfinite(module.b).all() for module in result.weights.modules.values())
    assert result.after.undesired != result.before.undesired


def test_a_joint_method_that_diverges_keeps_what_was_finished(
    base_dir: Path, data: EditData, settings: EditSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget, calls = Ga.forget, list[int]()

    def poisoned(self: Ga, views: Views) -> Terms:
        calls.append(1)
        return {
            name: term * (float("inf") if len(calls) == 4 else 1.0)
            for name, term in forget(self, views).items()
        }

    monkeypatch.setattr(Ga, "forget", poisoned)
    own = with_key(settings, "ga", steps=5, checkpoint_steps=2)
    with pytest.raises(UnlearningError, match="diverged at step 4") as error:
        edit(VlaPolicy.load(base_dir), data, own, tmp_path, Guard(3600, 1e6))
    assert error.value.code == ErrorCode.UNLEARNING_DIVERGED
    assert error.value.value == "forget"
    # The checkpoint of step 2 is there to go on from, for example by hand with fewer steps.
    assert [path.name for path in (tmp_path / "stages").iterdir()] == ["joint-1.part"]
