"""SCRUB's losses, alternation and rewind."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from opened import Open
from view_tables import slope, table_view

from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.unlearning import rounds
from vlaforget_ros.unlearning.data import EditData
from vlaforget_ros.unlearning.edit import EditSettings, edit
from vlaforget_ros.unlearning.gates import GateResult, Gates, at_least
from vlaforget_ros.unlearning.guard import Guard
from vlaforget_ros.unlearning.methods.scrub import Scrub, ScrubParameters
from vlaforget_ros.unlearning.metrics import OfflineMetrics

SMALL = {"batch_forget": 4, "batch_retain": 4, "batch_boundary": 4, "batch_counterfactual": 4, "rank": 4}


def test_both_losses_by_hand() -> None:
    method = Scrub(ScrubParameters(alpha=0.5, gamma=2.0, label_sigma_bins=0.0))
    reference = [[[0.5, 0.5]]]
    # KL(pi_0 || pi) = 0.5 ln(0.5 / 0.25) + 0.5 ln(0.5 / 0.75) = 0.5 ln(4/3).
    divergence = 0.5 * math.log(4 / 3)
    forget = table_view([[[0.25, 0.75]]], bins=[[0]], reference=reference)
    loss = method.forget({"forget": forget})["forget"]
    assert loss.item() == pytest.approx(-divergence)
    # d KL / d logit = p - p0 = (-0.25, 0.25); the loss is its negative: descending goes further away.
    assert slope(loss, forget)[0, 0].tolist() == pytest.approx([0.25, -0.25])
    retain = table_view([[[0.25, 0.75]]], bins=[[0]], reference=reference)
    terms = method.retain({"retain": retain})
    assert terms["retain"].item() == pytest.approx(2 * math.log(4))
    assert terms["kl"].item() == pytest.approx(0.5 * divergence)


def test_odd_steps_of_the_first_half_push_and_all_others_pull(open_method: Open) -> None:
    opened = open_method("scrub", max_share=0.5)
    # Eight steps, half of them alternate: 1 and 3 push.
    kinds = []
    for number in range(1, 9):
        step = opened.step(number, total=8)
        found = opened.method.gradients(step)
        loss = opened.method.forget if "forget" in step.losses else opened.method.retain
        kinds.append("push" if "forget" in step.losses else "pull")
        for left, right in zip(found.gradients, opened.step().gradient(loss), strict=True):
            torch.testing.assert_close(left, right)
    assert kinds == ["push", "pull", "push", "pull", "pull", "pull", "pull", "pull"]


@pytest.mark.parametrize(("holds_at", "kept"), [((2, 3), 2), ((1,), 1), ((), 3)])
def test_rewind_takes_the_first_cycle_whose_forget_gates_hold(
    base_dir: Path, data: EditData, settings: EditSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    holds_at: tuple[int, ...], kept: int,
) -> None:  # fmt: skip
    cycles: list[int] = []

    def gates(limits: Gates, metrics: OfflineMetrics) -> list[GateResult]:
        cycles.append(1)
        return [at_least("fc_min", 100.0 if len(cycles) in holds_at else 0.0, 50.0)]

    monkeypatch.setattr(rounds, "forget_gates", gates)
    method = Scrub(ScrubParameters(**SMALL, lora_alpha=8, steps=2, cycles=3))
    own = replace(settings, method=method)
    result = edit(VlaPolicy.load(base_dir), data, own, tmp_path, Guard(3600, 1e6))
    assert len(cycles) == 3
    assert [done.kept for done in result.rounds] == [number <= kept for number in (1, 2, 3)]
    assert result.after.row() == result.rounds[kept - 1].after
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines[-1] == {"event": "rewind", "to": f"cycle-{kept}"}
    # The adapter is bit for bit the one that was stored after that cycle.
    resumed = edit(VlaPolicy.load(base_dir), data, own, tmp_path, Guard(3600, 1e6), resume=True)
    from safetensors.torch import load_file

    stored = load_file(tmp_path / "stages" / f"cycle-{kept}.safetensors")
    for name, module in result.weights.modules.items():
        assert torch.equal(module.b, stored[f"{name}.B"])
        assert torch.equal(module.b, resumed.weights.modules[name].b)
    assert [done.kept for done in resumed.rounds] == [done.kept for done in result.rounds]
