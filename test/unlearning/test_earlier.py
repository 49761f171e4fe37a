"""Edits one after another: a later one protects, measures and may fail on what an earlier one took out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from vlaforget_ros.adapters.store import AdapterStore
from vlaforget_ros.episodes import FrameSet
from vlaforget_ros.episodes.dataset import concat
from vlaforget_ros.errors import ErrorCode, UnlearningError
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.unlearning import child, teacher
from vlaforget_ros.unlearning.data import Earlier, EditData
from vlaforget_ros.unlearning.earlier import read_earlier
from vlaforget_ros.unlearning.edit import EditResult, EditSettings, edit
from vlaforget_ros.unlearning.gates import Gates, damage_gates
from vlaforget_ros.unlearning.guard import Guard
from vlaforget_ros.unlearning.lora import fold, folded
from vlaforget_ros.unlearning.methods.corrected import Corrected
from vlaforget_ros.unlearning.metrics import EarlierForgetting, OfflineEvaluation, OfflineMetrics, actions_of
from vlaforget_ros.unlearning.parameters import JointParameters
from vlaforget_ros.unlearning.records import Check, read_record
from vlaforget_ros.unlearning.request import parse_request, read_request

SHUT, OPEN = (0.015, 0.015, 0.0, 1.0), (-0.015, -0.015, 0.0, 1.0)


def learner(steps: int = 40) -> Corrected:
    """Fine-tuning that moves the random policy to the actions of its sets within a few steps."""
    small = {f"batch_{name}": 12 for name in ("forget", "retain", "boundary", "counterfactual")}
    return Corrected(
        JointParameters(
            steps=steps, learning_rate=0.01, rank=4, lora_alpha=8, counterfactual_weight=1.0, **small
        )
    )


def settings(method: Corrected, **gates: float) -> EditSettings:
    limits = {
        "fc_min": 0.0,
        "fc_low_min": 0.0,
        "rc_min": 0.0,
        "rad_max": 1.0,
        "rad_boundary_max": 1.0,
        **gates,
    }
    return EditSettings(method, Gates(**limits), seed=3, identity={"request": "test"})


def recolour(frames: FrameSet, seed: int, prefix: str, action: tuple[float, ...]) -> FrameSet:
    """Other frames of other episodes under the same instructions, with another action."""
    images = np.random.default_rng(seed).integers(0, 256, frames.images.shape, dtype=np.uint8)
    episodes = np.array([f"{prefix}{episode}" for episode in frames.episodes])
    return FrameSet(images, frames.instructions, np.tile(np.float32(action), (len(frames), 1)), episodes)


@pytest.fixture
def first(base_dir: Path, data: EditData, tmp_path: Path) -> tuple[EditResult, Earlier]:
    """An edit that teaches the right motion on its own forget frames, and what it took out."""
    policy = VlaPolicy.load(base_dir)
    forget = replace(data.forget, desired=None)
    forget = replace(forget, actions=actions_of(policy, forget))
    taught = replace(forget, actions=np.tile(np.float32(OPEN), (len(forget), 1)))
    own = EditData(forget, replace(data.retain, actions=actions_of(policy, data.retain)), None, taught)
    result = edit(policy, own, settings(learner()), tmp_path / "first", Guard(3600, 1e6))
    assert result.after.metrics.fc >= 90
    return result, Earlier("first", forget, result.after.metrics.tau)


def second_data(policy: VlaPolicy, earlier: Earlier, data: EditData) -> EditData:
    """Another behaviour to forget; the earlier frames are in the boundary set as the policy answers them now."""
    near = teacher.as_now(policy, earlier.frames, "earlier request first")
    forget = recolour(data.retain, 9, "other-", (0, 0, 0, 0))
    forget = replace(forget, actions=actions_of(policy, forget))
    taught = replace(forget, actions=np.tile(np.float32(SHUT), (len(forget), 1)))
    retain = replace(data.boundary or data.retain, actions=actions_of(policy, data.boundary or data.retain))
    return EditData(forget, retain, near, taught, (earlier,))


def test_a_second_edit_keeps_what_the_first_one_took_out(
    base_dir: Path, data: EditData, first: tuple[EditResult, Earlier], tmp_path: Path
) -> None:
    parent, earlier = first
    policy = VlaPolicy.load(base_dir)
    with folded(policy.model, parent.weights):
        own = second_data(policy, earlier, data)
    result = edit(policy, own, settings(learner()), tmp_path / "b", Guard(3600, 1e6), parent=parent.weights)
    before, after = (check.metrics.earlier["first"] for check in (result.before, result.after))
    assert before.fc == parent.after.metrics.fc, (
        "the frames, tau and policy are those at the end of the first edit"
    )
    assert after.fc >= 90
    assert result.after.metrics.fc > result.before.metrics.fc
    (gate,) = [gate for gate in result.gates if gate.name == "fc_earlier_min"]
    assert (gate.verdict, gate.value, gate.n) == ("passed", after.fc, len(earlier.frames))
    assert gate.low == after.fc_low
    assert result.gates_passed


def test_an_edit_that_brings_the_earlier_behaviour_back_fails_the_gate(
    base_dir: Path, data: EditData, first: tuple[EditResult, Earlier], tmp_path: Path
) -> None:
    parent, earlier = first
    policy = VlaPolicy.load(base_dir)
    with folded(policy.model, parent.weights):
        own = second_data(policy, earlier, data)
    # It is shown the earlier undesired actions as the right ones, and its boundary set protects nothing.
    own = replace(own, boundary=None, counterfactual=concat([earlier.frames] * 2))
    result = edit(policy, own, settings(learner(80)), tmp_path / "b", Guard(3600, 1e6), parent=parent.weights)
    assert result.after.metrics.earlier["first"].fc < 90
    (gate,) = [gate for gate in result.gates if gate.name == "fc_earlier_min"]
    assert gate.verdict == "failed"
    assert not result.gates_passed


def test_the_gate_is_about_the_earlier_request_that_suffered_most(policy: VlaPolicy, data: EditData) -> None:
    sets = {"forget": data.forget, "retain": data.retain}
    metrics = OfflineEvaluation(policy, sets, 0.1).measure()
    assert "fc_earlier_min" not in {gate.name for gate in damage_gates(Gates(), metrics)}
    rates = {"a": EarlierForgetting(95, 91, 99, 40), "b": EarlierForgetting(80, 70, 90, 30)}
    found = {gate.name: gate for gate in damage_gates(Gates(), replace(metrics, earlier=rates))}
    gate = found["fc_earlier_min"]
    assert (gate.verdict, gate.value, gate.low, gate.high, gate.n) == ("failed", 80, 70, 90, 30)
    assert replace(metrics, earlier=rates).row()["fc_earlier_a"] == 95


def test_measurements_with_earlier_requests_survive_the_journal(policy: VlaPolicy, data: EditData) -> None:
    earlier = (Earlier("first", data.retain, 0.05),)
    evaluation = OfflineEvaluation(policy, {"forget": data.forget, "retain": data.retain}, 0.1, earlier)
    check = Check(evaluation.measure(), 0.5, None)
    assert Check.parse(json.loads(json.dumps(check.row()))) == check
    old = {name: value for name, value in check.row()["metrics"].items() if name != "earlier"}
    assert OfflineMetrics.parse(old).earlier == {}


def test_a_folded_adapter_is_taken_out_bit_for_bit(base_dir: Path, first: tuple[EditResult, Earlier]) -> None:
    weights = first[0].weights
    policy, other = VlaPolicy.load(base_dir), VlaPolicy.load(base_dir)
    before = {name: tensor.clone() for name, tensor in policy.model.state_dict().items()}
    fold(other.model, weights)
    with folded(policy.model, weights):
        inside = {name: tensor.clone() for name, tensor in policy.model.state_dict().items()}
    assert all(torch.equal(inside[name], tensor) for name, tensor in other.model.state_dict().items())
    assert any(not torch.equal(inside[name], tensor) for name, tensor in before.items())
    assert all(torch.equal(before[name], tensor) for name, tensor in policy.model.state_dict().items())


def run(request: dict[str, Any], out: Path, *more: str) -> int:
    out.parent.mkdir(parents=True, exist_ok=True)
    path = out.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(request))
    return child.main(["--request", str(path), "--out", str(out), *more])


def done(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_a_request_names_the_edit_before_it_and_the_record_shows_both(
    request_text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = yaml.safe_load(request_text)
    values["gates"]["fc_earlier_min"] = 0
    assert run(values, tmp_path / "a") == 0
    one = done(capsys)
    store = tmp_path / "store"
    parent = AdapterStore(store).add(Path(one["directory"]), one["provenance"])
    second = {
        **values,
        "name": "neighbour",
        "forget": {"rollout_id": "near-*"},
        "retain": {},
        "counterfactual": [],
        "start_from": parent.digest,
        "earlier": ["a"],
    }
    del second["boundary"]
    assert run(second, tmp_path / "b", "--store", str(store)) == 0
    two = done(capsys)
    assert two["provenance"]["parent_digest"] == parent.digest
    assert {"forget", "retain", "boundary", "earlier_sticker"} == set(two["provenance"]["datasets"])
    assert two["metrics"]["fc_earlier_sticker_before"] == pytest.approx(one["metrics"]["fc"])
    record = read_record(tmp_path / "b")
    assert "boundary: earlier request sticker, 42 frames" in record["sources"]
    # The three episodes of the first request's behaviour would be among "everything else".
    assert "retain: 5 episodes, 70 frames" in record["sources"]
    assert record["after"]["metrics"]["earlier"]["sticker"]["forget_frames"] > 0
    assert "fc_earlier_min" in {gate["name"] for gate in record["gates"]}
    third = {
        **second,
        "name": "third",
        "start_from": str(tmp_path / "b/adapter"),
        "earlier": [str(tmp_path / "b")],
    }
    (tmp_path / "third.yaml").write_text(yaml.safe_dump(third))
    found = read_earlier(read_request(tmp_path / "third.yaml").earlier)
    assert [part.name for part in found] == ["sticker", "neighbour"], "the oldest first, each once"
    assert found[0].tau == record_tau(tmp_path / "a")


def record_tau(folder: Path) -> float:
    return float(read_record(folder)["after"]["metrics"]["tau"])


def test_earlier_requests_of_one_name_are_told_apart_and_files_will_do(
    request_text: str, tmp_path: Path
) -> None:
    for seed in (1, 2):
        (tmp_path / f"{seed}.yaml").write_text(request_text.replace("seed: 3", f"seed: {seed}"))
    paths = [str(tmp_path / f"{seed}.yaml") for seed in (1, 2, 1)]
    found = read_earlier(paths)
    assert [(part.name, part.request.seed) for part in found] == [("sticker", 1), ("sticker-2", 2)]
    assert {part.tau for part in found} == {0.05}


def test_earlier_without_an_adapter_to_start_from_is_refused(request_text: str) -> None:
    with pytest.raises(UnlearningError, match="goes with `start_from`") as error:
        parse_request({**yaml.safe_load(request_text), "earlier": ["a"]})
    assert error.value.code == ErrorCode.UNLEARNING_BAD_REQUEST


@pytest.mark.parametrize("content", [None, "{", "[]", '{"request": {}}'])
def test_a_folder_without_a_finished_edit_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "edit.json").write_text(content)
    with pytest.raises(UnlearningError, match="no record of a finished edit") as error:
        read_earlier([str(tmp_path)])
    assert error.value.code == ErrorCode.UNLEARNING_BAD_REQUEST
