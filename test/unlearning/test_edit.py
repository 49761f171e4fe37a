"""Whole edits on a small random policy: stages, rollback, resume, cancel, budgets, divergence."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vlaforget_ros.errors import ErrorCode, UnlearningError
from vlaforget_ros.policy.images import pixel_values
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.unlearning.data import EditData
from vlaforget_ros.unlearning.edit import EditResult, EditSettings, edit
from vlaforget_ros.unlearning.gates import Gates
from vlaforget_ros.unlearning.guard import Guard
from vlaforget_ros.unlearning.lora import EditAdapter
from vlaforget_ros.unlearning.merging import merge_gate
from vlaforget_ros.unlearning.methods.vla_forget import VlaForget, judge
from vlaforget_ros.unlearning.progress import Progress
from vlaforget_ros.unlearning.views import Terms, Views

Load = Callable[[], VlaPolicy]


@pytest.fixture
def load(base_dir: Path) -> Load:
    return lambda: VlaPolicy.load(base_dir)


def unlimited() -> Guard:
    return Guard(3600, 1e6)


def same(left: EditResult, right: EditResult) -> bool:
    a, b = left.weights.modules, right.weights.modules
    return a.keys() == b.keys() and all(
        torch.equal(a[n].a, b[n].a) and torch.equal(a[n].b, b[n].b) for n in a
    )


def test_an_edit_runs_all_stages_and_moves_towards_the_right_actions(
    load: Load, data: EditData, settings: EditSettings, tmp_path: Path
) -> None:
    seen: list[Progress] = []
    result = edit(load(), data, settings, tmp_path, unlimited(), seen.append)
    names = [(done.stage, done.round, done.kept) for done in result.rounds]
    assert names == [
        ("visual", 1, True),
        ("projector", 1, True),
        ("language", 1, True),
        ("language", 2, True),
    ]
    assert result.components == ("visual", "projector", "language")
    assert [len(done.layers) for done in result.rounds] == [1, 2, 2, 3]  # one more block in the second round
    assert result.after.undesired < result.before.undesired
    assert result.after.counterfactual is not None
    assert result.before.counterfactual is not None
    assert result.after.counterfactual < result.before.counterfactual
    assert result.remarks == ()
    assert not result.gates_passed  # the forget gate asks for 100 % after a dozen steps
    assert [p.step for p in seen] == list(range(1, 15))
    assert {p.total_steps for p in seen} == {14}
    assert set(seen[0].losses) == {"forget", "mismatch", "retain", "counterfactual", "kl", "feature"}
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["start", *["choice", "round"] * 4]
    assert len(lines[1]["scores"]) == 2


def test_the_merged_weights_compute_what_the_adapter_does(
    load: Load, data: EditData, settings: EditSettings, tmp_path: Path
) -> None:
    result = edit(load(), data, settings, tmp_path, unlimited())
    (gate,) = [g for g in result.gates if g.name == "merge_tolerance"]
    assert gate.verdict == "passed"
    assert gate.value is not None
    assert gate.value < 1e-5


def test_in_16_bits_it_counts_what_merging_costs(
    load: Load, data: EditData, settings: EditSettings, tmp_path: Path
) -> None:
    """As released policies are served; rounding alone moves probabilities by more than 32 bits may."""
    policy = load()
    policy.model.to(torch.bfloat16)
    result = edit(policy, data, settings, tmp_path, unlimited())
    assert not [gate for gate in result.gates if gate.name == "merge_tolerance"]
    (gate,) = [gate for gate in result.gates if gate.name == "merge_loss_max"]
    assert gate.verdict != "not_measured"
    assert gate.value is not None
    assert gate.n
    assert 0.0 <= gate.value < 20.0


@pytest.mark.parametrize(("fc", "rc", "lost"), [(90.0, 95.0, 8.0), (99.0, 92.0, 4.0), (99.0, 97.0, 0.0)])
def test_what_merging_costs_is_the_larger_loss(fc: float, rc: float, lost: float) -> None:
    linear = torch.nn.Sequential(torch.nn.Linear(4, 4)).to(torch.bfloat16)
    adapter = EditAdapter(linear, rank=2, alpha=2)
    adapter.add(["0"], seed=0)
    figures = {"forget_frames": 50, "retain_frames": 40}
    merged, attached = SimpleNamespace(fc=fc, rc=rc, **figures), SimpleNamespace(fc=98.0, rc=96.0, **figures)
    bench = SimpleNamespace(adapter=adapter, evaluation=SimpleNamespace(measure=lambda: merged))
    gate = merge_gate(bench, Gates(), attached)  # type: ignore[arg-type]
    assert (gate.name, gate.value, gate.n) == ("merge_loss_max", lost, 40)
    assert gate.verdict == ("passed" if lost <= 2.0 else "failed")


@pytest.mark.parametrize("doing", ["measuring, retain", "ranking layers, language", "caching states"])
def test_an_edit_is_stopped_between_its_steps_too(
    load: Load, data: EditData, settings: EditSettings, tmp_path: Path, doing: str
) -> None:
    told: list[str] = []
    guard = Guard(3600, 1e6, cancelled=lambda: any(what.startswith(doing) for what in told))
    with pytest.raises(UnlearningError) as error:
        edit(load(), data, settings, tmp_path, guard, told=told.append)
    assert error.value.code == ErrorCode.UNLEARNING_CANCELLED
    assert sum(what.startswith(doing) for what in told) <= 2


@pytest.mark.parametrize("stop_at", [2, 5, 9, 13])
def test_an_edit_stopped_in_any_stage_ends_with_the_same_bits(
    load: Load, data: EditData, settings: EditSettings, tmp_path: Path, stop_at: int
) -> None:
    whole = edit(load(), data, settings, tmp_path / "whole", unlimited())
    steps: list[Progress] = []
    guard = Guard(3600, 1e6, cancelled=lambda: len(steps) >= stop_at)
    with pytest.raises(UnlearningError) as error:
        edit(load(), data, settings, tmp_path / "stopped", guard, steps.append)
    assert error.value.code == ErrorCode.UNLEARNING_CANCELLED
    again: list[Progress] = []
    resumed = edit(load(), data, settings, tmp_path / "stopped", unlimited(), again.append, resume=True)
    assert len(again) < 14 or stop_at == 2  # finished stages were not run again
    assert same(whole, resumed)
    assert [d.summary() for d in whole.rounds] == [d.summary() for d in resumed.rounds]


def test_without_resume_an_edit_starts_anew(
    load: Load, data: EditData, settings: EditSettings, tmp_path: Path
) -> None:
    edit(load(), data, settings, tmp_path, unlimited())
    steps: list[Progress] = []
    edit(load(), data, settings, tmp_path, unlimited(), steps.append)
    assert len(steps) == 14


def test_resuming_with_other_data_is_refused(
    load: Load, data: EditData, settings: EditSettings, tmp_path: Path
) -> None:
    edit(load(), data, settings, tmp_path, unlimited())
    other = replace(data, boundary=None)
    with pytest.raises(UnlearningError, match="data_boundary changed") as error:
        edit(load(), other, settings, tmp_path, unlimited(), resume=True)
    assert error.value.code == ErrorCode.UNLEARNING_BAD_REQUEST


def test_a_stage_without_progress_is_rolled_back_and_then_there_is_nothing_to_adapt(
    load: Load, data: EditData, settings: EditSettings, tmp_path: Path
) -> None:
    parameters = settings.method.parameters.model_copy(update={"min_gain": 1.5})
    policy = load()
    with pytest.raises(UnlearningError, match="rolled back: undesired motions") as error:
        edit(policy, data, replace(settings, method=VlaForget(parameters)), tmp_path, unlimited())
    assert error.value.code == ErrorCode.UNLEARNING_GATE_FAILED
    images = data.retain.images
    with torch.no_grad():
        pixels = pixel_values(images, policy.config)
        assert torch.equal(policy.features(pixels)[1], load().features(pixels)[1])


def test_judge_rolls_back_damage_and_steps_away_from_the_right_actions(
    load: Load, data: EditData, settings: EditSettings, tmp_path: Path
) -> None:
    before = edit(load(), data, settings, tmp_path, unlimited()).before
    better = replace(before, undesired=0.5 * before.undesired)
    gates = settings.gates.model_copy(update={"rad_max": 0.2})
    assert judge(before, better, gates, min_gain=0.4)[0]
    assert not judge(before, better, gates, min_gain=0.6)[0]
    # No less likely, but no longer on top: that is progress, too.
    fewer = replace(before, metrics=replace(before.metrics, fc=before.metrics.fc + 50.0))
    assert judge(before, fewer, gates, min_gain=0.4)[0]
    assert not judge(before, fewer, gates, min_gain=0.6)[0]
    # A stage before the last must remove its share: frames that are won are not enough.
    assert judge(before, better, gates, min_gain=0.4, min_share=0.45)[0]
    kept, reason = judge(before, better, gates, min_gain=0.4, min_share=0.55)
    assert (kept, reason.split(" (")[0]) == (False, "rolled back: the cause is elsewhere")
    assert not judge(before, fewer, gates, min_gain=0.4, min_share=0.25)[0]
    hurt = replace(better, metrics=replace(better.metrics, rad=0.3))
    kept, reason = judge(before, hurt, gates, min_gain=0.4)
    assert (kept, reason) == (False, "rolled back: damage (rad_max: 0.3, limit 0.2)")
    lost = replace(better, counterfactual=99.0)
    assert judge(before, lost, gates, min_gain=0.4)[1].endswith(
        "further away from the counterfactual actions"
    )


def test_only_the_named_stages_are_run(
    load: Load, data: EditData, settings: EditSettings, tmp_path: Path
) -> None:
    # Without right actions to move towards: a few steps of this stage alone need not get nearer to them.
    parameters = settings.method.parameters.model_copy(update={"stages": ("projector",)})
    bare = replace(data, counterfactual=None)
    result = edit(load(), bare, replace(settings, method=VlaForget(parameters)), tmp_path, unlimited())
    assert result.components == ("projector",)
    assert all(name.startswith("projector.") for name in result.weights.modules)


def test_without_boundary_and_counterfactual_data(
    load: Load, data: EditData, settings: EditSettings, tmp_path: Path
) -> None:
    seen: list[Progress] = []
    bare = replace(data, boundary=None, counterfactual=None)
    parameters = settings.method.parameters.model_copy(update={"lambda_f": 2.0, "stages": ("language",)})
    settings = replace(settings, method=VlaForget(parameters))
    result = edit(load(), bare, settings, tmp_path, unlimited(), seen.append)
    assert set(seen[0].losses) == {"forget", "mismatch", "retain", "kl"}
    assert result.after.counterfactual is None
    assert result.after.undesired < result.before.undesired


def test_uncached_states_give_the_same_edit(
    load: Load, data: EditData, settings: EditSettings, tmp_path: Path
) -> None:
    cached = edit(load(), data, settings, tmp_path / "a", unlimited())
    parameters = settings.method.parameters.model_copy(update={"cache_mb": 0})
    plain = edit(load(), data, replace(settings, method=VlaForget(parameters)), tmp_path / "b", unlimited())
    assert cached.rounds[0].cached_mb > 0 == plain.rounds[0].cached_mb
    for name, module in cached.weights.modules.items():
        torch.testing.assert_close(module.b, plain.weights.modules[name].b, rtol=1e-2, atol=1e-4)


def test_starting_from_an_adapter_includes_it(
    load: Load, data: EditData, settings: EditSettings, tmp_path: Path
) -> None:
    first = edit(load(), data, settings, tmp_path / "a", unlimited())
    second = edit(load(), data, settings, tmp_path / "b", unlimited(), parent=first.weights)
    assert second.before.undesired == pytest.approx(first.after.undesired, rel=1e-4)
    assert set(first.weights.modules) <= set(second.weights.modules)
    # Where both edits changed a layer their ranks add up.
    assert {module.rank for module in second.weights.modules.values()} == {4, 8}


def test_empty_sets_are_refused(data: EditData) -> None:
    nothing = data.forget.take(np.zeros(0, dtype=np.int64))
    with pytest.raises(UnlearningError) as error:
        replace(data, forget=nothing)
    assert error.value.code == ErrorCode.UNLEARNING_EMPTY_FORGET_SET
    with pytest.raises(UnlearningError) as error:
        replace(data, retain=nothing)
    assert error.value.code == ErrorCode.UNLEARNING_EMPTY_RETAIN_SET


def test_a_loss_that_is_not_finite_ends_the_edit_and_keeps_finished_stages(
    load: Load, data: EditData, settings: EditSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terms = VlaForget.retain
    calls: list[int] = []

    def poisoned(self: VlaForget, views: Views) -> Terms:
        calls.append(1)
        found = terms(self, views)
        return {**found, "retain": found["retain"] * (float("nan") if len(calls) == 5 else 1.0)}

    monkeypatch.setattr(VlaForget, "retain", poisoned)
    with pytest.raises(UnlearningError, match="diverged at step 2") as error:
        edit(load(), data, settings, tmp_path, unlimited())
    assert error.value.code == ErrorCode.UNLEARNING_DIVERGED
    assert error.value.value == "retain"
    assert sorted(p.name for p in (tmp_path / "stages").iterdir()) == [
        "visual-1.json",
        "visual-1.safetensors",
    ]


def test_time_running_out_ends_training_and_what_was_kept_is_an_adapter(
    load: Load, data: EditData, settings: EditSettings, tmp_path: Path
) -> None:
    steps: list[Progress] = []
    guard = Guard(100.0, 1e6, clock=lambda: 1000.0 if len(steps) >= 5 else 0.0)
    result = edit(load(), data, settings, tmp_path, guard, steps.append)
    assert len(steps) == 5
    assert [(d.stage, d.complete) for d in result.rounds] == [("visual", True), ("projector", False)]
    assert list(result.remarks) == [
        "out of time (budget 100 s): projector-1 stopped after 2 of 3 steps",
        "out of time (budget 100 s): stage language did not run",
    ]


def test_no_time_at_all_is_said_to_be_that(
    load: Load, data: EditData, settings: EditSettings, tmp_path: Path
) -> None:
    with pytest.raises(
        UnlearningError, match=r"out of time \(budget 0 s\): stage visual did not run"
    ) as error:
        edit(load(), data, settings, tmp_path, Guard(0.0, 1e6))
    assert error.value.code == ErrorCode.UNLEARNING_GATE_FAILED
    assert "raise budget.seconds" in str(error.value)


def test_too_much_memory_is_a_coded_error(
    load: Load, data: EditData, settings: EditSettings, tmp_path: Path
) -> None:
    with pytest.raises(UnlearningError, match="5000 MB in use") as error:
        edit(load(), data, settings, tmp_path, Guard(100, 4096, memory=lambda: 5000.0))
    assert error.value.code == ErrorCode.UNLEARNING_OUT_OF_MEMORY


def test_a_failed_allocation_is_a_coded_error(
    load: Load, data: EditData, settings: EditSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 1 TB")

    monkeypatch.setattr(VlaForget, "retain", fail)
    with pytest.raises(UnlearningError) as error:
        edit(load(), data, settings, tmp_path, unlimited())
    assert error.value.code == ErrorCode.UNLEARNING_OUT_OF_MEMORY
