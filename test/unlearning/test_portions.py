"""Frames a few at a time: the same results, halves where memory does not suffice, and how many a large policy takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch

from vlaforget_ros.bench.random_release import STATISTICS
from vlaforget_ros.paths import models_directory
from vlaforget_ros.policy.config import PolicyConfig
from vlaforget_ros.policy.footprint import Kind, frame_bytes
from vlaforget_ros.policy.openvla_7b import openvla_7b_config
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.unlearning import portions as portions_module
from vlaforget_ros.unlearning import ranking
from vlaforget_ros.unlearning.bank import Bank
from vlaforget_ros.unlearning.data import EditData
from vlaforget_ros.unlearning.edit import EditSettings, edit, prepare
from vlaforget_ros.unlearning.guard import Guard
from vlaforget_ros.unlearning.metrics import actions_of
from vlaforget_ros.unlearning.network import Entry, Output
from vlaforget_ros.unlearning.parameters import STAGES
from vlaforget_ros.unlearning.portions import most_frames, portions, training_passes
from vlaforget_ros.unlearning.scores import LayerScore
from vlaforget_ros.unlearning.workbench import Workbench

SEVEN_B = openvla_7b_config(STATISTICS)


@pytest.fixture
def bench(base_dir: Path, data: EditData, settings: EditSettings) -> Workbench:
    return prepare(VlaPolicy.load(base_dir), data, settings, Guard(3600, 1e6))


def small(monkeypatch: pytest.MonkeyPatch, megabytes: float) -> None:
    for module in (portions_module, ranking):
        monkeypatch.setattr(module, "PORTION_MB", megabytes)


def numbers(score: LayerScore) -> dict[str, float]:
    return {name: float(value) for name, value in score.row().items() if name != "layer"}


def test_portions_are_in_order_and_of_the_size_that_was_asked_for() -> None:
    found = list(portions(np.arange(10, 17), 3, lambda rows: rows.sum()))
    assert [list(rows) for rows, _ in found] == [[10, 11, 12], [13, 14, 15], [16]]
    assert [int(value) for _, value in found] == [33, 42, 16]
    assert list(portions(np.arange(0), 3, len)) == []


def test_where_memory_does_not_suffice_there_are_half_as_many_from_there_on() -> None:
    tried: list[int] = []

    def work(rows: np.ndarray) -> int:
        tried.append(len(rows))
        if len(rows) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return len(rows)

    found = list(portions(np.arange(11), 8, work))
    assert np.concatenate([rows for rows, _ in found]).tolist() == list(range(11))
    assert tried == [8, 4, 2, 2, 2, 2, 2, 1]


def test_one_frame_that_does_not_fit_and_any_other_error_are_errors() -> None:
    def full(rows: np.ndarray) -> None:
        raise MemoryError

    with pytest.raises(MemoryError):
        list(portions(np.arange(4), 4, full))
    with pytest.raises(ZeroDivisionError):
        list(portions(np.arange(4), 4, lambda rows: 1 // 0))


def test_a_large_policy_takes_a_few_frames_and_the_embedded_one_all() -> None:
    tiny = PolicyConfig.model_validate_json((models_directory() / "tiny" / "config.json").read_text())
    kinds: tuple[Kind, ...] = ("looking", "deciding", "training")
    # What limited the embedded policy's passes before still does: no figure of it changes.
    together = [int(portions_module.PORTION_MB * 1e6 / frame_bytes(tiny, 4, kind)) for kind in kinds]
    assert all(own >= limit for own, limit in zip(together, (512, 256, 128), strict=True))
    looking, deciding, training = (frame_bytes(SEVEN_B, 2, kind) for kind in kinds)
    tokens = 256 + 64 + 7
    # Keys and values of 32 blocks; ten times the width and three times the MLP's for one block.
    assert deciding - looking == 2 * 32 * 4096 * tokens * 2
    assert looking == tokens * (10 * 4096 + 3 * 11008) * 2
    assert training > 32 * looking
    assert looking < frame_bytes(SEVEN_B, 2, "recomputing") < 0.1 * training


@pytest.mark.parametrize("megabytes", [0.0, 0.3])
def test_layers_are_ranked_alike_whatever_fits(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch, megabytes: float
) -> None:
    """With nothing that fits: one layer and one frame at a time, and blocks computed again in the backward pass."""
    whole = {stage: ranking.rank(bench, stage, 1.0, 0.5) for stage in STAGES}
    sizes: list[int] = []
    forward = Bank.forward

    def counted(self: Bank, rows: np.ndarray) -> Output:
        sizes.append(len(rows))
        return forward(self, rows)

    monkeypatch.setattr(Bank, "forward", counted)
    small(monkeypatch, megabytes)
    for stage, scores in whole.items():
        again = ranking.rank(bench, stage, 1.0, 0.5)
        assert [score.layer for score in again] == [score.layer for score in scores]
        for one, other in zip(again, scores, strict=True):
            assert numbers(one) == pytest.approx(numbers(other), rel=1e-4, abs=1e-7)
    assert max(sizes) < len(bench.score_rows("forget"))
    assert max(sizes) == 1 or megabytes
    assert not any(parameter.requires_grad for parameter in bench.policy.model.parameters())


def test_an_edit_is_measured_alike_whatever_fits(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch, base_dir: Path, data: EditData, settings: EditSettings
) -> None:
    whole = bench.check()
    bank = bench.banks["forget"]
    reference, features = bank.reference, bank.features
    actions = actions_of(bench.policy, data.forget)
    small(monkeypatch, 0.0)
    again = prepare(VlaPolicy.load(base_dir), data, replace(settings), Guard(3600, 1e6))
    assert most_frames(again.policy, "looking", 128) == 1
    check = again.check()
    assert check.undesired == pytest.approx(whole.undesired, rel=1e-5)
    assert check.counterfactual == pytest.approx(whole.counterfactual, rel=1e-5)
    assert check.metrics.row() == pytest.approx(whole.metrics.row(), rel=1e-5)
    torch.testing.assert_close(again.banks["forget"].reference, reference, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(again.banks["forget"].features.visual, features.visual, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(actions_of(again.policy, data.forget), actions, atol=1e-5)


def test_training_passes_by_the_layers_that_are_edited(bench: Workbench) -> None:
    assert training_passes(bench.policy, Entry("visual", (0,)), 200) == (0, False)
    assert training_passes(bench.policy, Entry("visual", (0,)), 200, recomputing=True) == (0, True)
    large = SimpleNamespace(config=SEVEN_B, model=torch.nn.Linear(1, 1, dtype=torch.bfloat16))
    policy = cast(VlaPolicy, large)
    # 48 MB for a block and a frame: two frames of eight blocks, not one of all of them.
    assert training_passes(policy, Entry("language", (24,)), 200) == (2, False)
    assert training_passes(policy, Entry("language", (24,)), 2) == (0, False)
    most, again = training_passes(policy, Entry("language", (0,)), 200)
    assert again
    assert most > 5
    assert training_passes(policy, Entry("visual", (0, 0)), 200) == (most - 1, True)


def test_an_edit_in_small_passes_is_the_same_and_says_so(
    base_dir: Path, data: EditData, settings: EditSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = edit(VlaPolicy.load(base_dir), data, settings, tmp_path / "whole", Guard(3600, 1e6))
    small(monkeypatch, 0.0)
    result = edit(VlaPolicy.load(base_dir), data, settings, tmp_path / "small", Guard(3600, 1e6))
    assert [done.micro_batch for done in whole.rounds] == [0] * len(whole.rounds)
    assert [done.micro_batch for done in result.rounds] == [1] * len(whole.rounds)
    assert any("passes of at most 1 frames" in remark for remark in result.remarks)
    assert [done.layers for done in result.rounds] == [done.layers for done in whole.rounds]
    assert result.after.undesired == pytest.approx(whole.after.undesired, rel=1e-2)
