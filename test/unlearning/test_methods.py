"""Every method behind the same interface: it runs, resumes to the same bits, and its adapter is one that serves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from vlaforget_ros.adapters.peft_format import read_peft, write_peft
from vlaforget_ros.errors import UnlearningError
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.unlearning.data import EditData
from vlaforget_ros.unlearning.edit import EditResult, EditSettings, edit
from vlaforget_ros.unlearning.guard import Guard
from vlaforget_ros.unlearning.methods import METHODS, make_method
from vlaforget_ros.unlearning.progress import Progress

SMALL: dict[str, Any] = {
    "batch_forget": 4,
    "batch_retain": 4,
    "batch_boundary": 4,
    "batch_counterfactual": 4,
    "score_frames": 8,
    "rank": 4,
    "lora_alpha": 8,
    "checkpoint_steps": 2,
}
OWN: dict[str, dict[str, Any]] = {
    "vla_forget": {"steps_visual": 3, "steps_projector": 3, "steps_language": 3, "min_gain": 0.0, "max_rounds": 1},
    "ssd": {"fisher_frames": 4, "alpha": 1.0},
    "scrub": {"steps": 3, "cycles": 2},
    "ihl": {"fila": True, "steps": 5},
}


def small_settings(key: str, settings: EditSettings) -> EditSettings:
    """A few small steps of a method."""
    own = OWN.get(key, {"steps": 5})
    return replace(settings, method=make_method(key, METHODS[key].Parameters(**SMALL, **own)))


def run(key: str, base: Path, data: EditData, settings: EditSettings, out: Path, **more: Any) -> EditResult:
    return edit(VlaPolicy.load(base), data, small_settings(key, settings), out, Guard(3600, 1e6), **more)


def bits(result: EditResult) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    return {name: (module.a, module.b) for name, module in result.weights.modules.items()}


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
def test_a_method_stopped_after_any_step_ends_with_the_same_bits(
    key: str, base_dir: Path, data: EditData, settings: EditSettings, tmp_path: Path
) -> None:
    steps: list[Progress] = []
    whole = run(key, base_dir, data, settings, tmp_path / "whole", progress=steps.append)
    for stop_at in range(1, len(steps)):
        out, made = tmp_path / f"stopped-{stop_at}", list[Progress]()
        guard = Guard(3600, 1e6, cancelled=_after(made, stop_at))
        with pytest.raises(UnlearningError, match="cancelled"):
            edit(VlaPolicy.load(base_dir), data, small_settings(key, settings), out, guard, made.append)
        again: list[Progress] = []
        resumed = run(key, base_dir, data, settings, out, progress=again.append, resume=True)
        # Checkpoints are two steps apart.
        assert len(again) <= len(steps) - stop_at + 1
        for name, pair in bits(whole).items():
            assert all(map(torch.equal, pair, bits(resumed)[name])), (name, stop_at)


def _after(made: list[Progress], count: int) -> Callable[[], bool]:
    return lambda: len(made) >= count
