"""Every method behind the same interface: it runs, resumes to the same bits, and its adapter is one that serves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from method_parts import bits, small_settings

from vlaforget_ros.adapters.peft_format import read_peft, write_peft
from vlaforget_ros.errors import UnlearningError
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.unlearning.data import EditData
from vlaforget_ros.unlearning.edit import EditResult, EditSettings, edit
from vlaforget_ros.unlearning.guard import Guard
from vlaforget_ros.unlearning.methods import METHODS
from vlaforget_ros.unlearning.progress import Progress


def run(key: str, base: Path, data: EditData, settings: EditSettings, out: Path, **more: Any) -> EditResult:
    return edit(VlaPolicy.load(base), data, small_settings(key, settings), out, Guard(3600, 1e6), **more)


@pytest.mark.parametrize("key", METHODS)
def test_a_method_makes_an_adapter_that_changes_the_policy(
    key: str, base_dir: Path, data: EditData, settings: EditSettings, tmp_path: Path
) -> None:
    seen: list[Progress] = []
    result = run(key, base_dir, data, settings, tmp_path / "edit", progress=seen.append)
    assert any(float(module.delta().abs().max()) > 0 for module in result.weights.modules.values())
    assert result.after.undesired != result.before.undesired
    assert [p.step for p in seen] == list(range(1, len(seen) + 1))
    (tmp_path / "adapter").mkdir()
    write_peft(result.weights, tmp_path / "adapter")
    assert read_peft(tmp_path / "adapter").modules.keys() == result.weights.modules.keys()
    merge = next(gate for gate in result.gates if gate.name == "merge_tolerance")
    assert merge.verdict == "passed"


@pytest.mark.parametrize("key", [key for key in METHODS if key != "ssd"])
def test_a_method_without_counterfactual_and_boundary_data(
    key: str, base_dir: Path, data: EditData, settings: EditSettings, tmp_path: Path
) -> None:
    bare = replace(data, boundary=None, counterfactual=None)
    result = run(key, base_dir, bare, settings, tmp_path)
    assert result.weights.modules


@pytest.mark.parametrize("key", METHODS)
def test_a_method_stopped_within_or_between_checkpoints_ends_with_the_same_bits(
    key: str, base_dir: Path, data: EditData, settings: EditSettings, tmp_path: Path
) -> None:
    steps: list[Progress] = []
    whole = run(key, base_dir, data, settings, tmp_path / "whole", progress=steps.append)
    # Checkpoints are two steps apart: one stop right after a checkpoint, one with a step that is made again.
    for stop_at in sorted({n for n in (2, len(steps) - 2) if 0 < n < len(steps)}):
        out, made = tmp_path / f"stopped-{stop_at}", list[Progress]()
        guard = Guard(3600, 1e6, cancelled=_after(made, stop_at))
        with pytest.raises(UnlearningError, match="cancelled"):
            edit(VlaPolicy.load(base_dir), data, small_settings(key, settings), out, guard, made.append)
        again: list[Progress] = []
        resumed = run(key, base_dir, data, settings, out, progress=again.append, resume=True)
        assert len(again) <= len(steps) - stop_at + 1
        for name, pair in bits(whole).items():
            assert all(map(torch.equal, pair, bits(resumed)[name])), (name, stop_at)


def _after(made: list[Progress], count: int) -> Callable[[], bool]:
    return lambda: len(made) >= count
