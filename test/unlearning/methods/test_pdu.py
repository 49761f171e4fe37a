"""PDU's flattening loss, its constraint and its multiplier by hand."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from opened import Open
from view_tables import slope, table_view

from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.unlearning.data import EditData
from vlaforget_ros.unlearning.edit import EditSettings, edit
from vlaforget_ros.unlearning.guard import Guard
from vlaforget_ros.unlearning.methods.pdu import Pdu, PduParameters, next_dual
from vlaforget_ros.unlearning.progress import Progress


def test_the_margin_by_hand_and_flat_is_where_it_ends() -> None:
    # Probabilities 4/6, 1/6, 1/6: logs minus their mean are (2 ln 4) / 3 and -(ln 4) / 3: margin (2 ln 4) / 3.
    forget = table_view([[[4 / 6, 1 / 6, 1 / 6]]], bins=[[0]])
    loss = Pdu(PduParameters(gamma=0.5)).forget({"forget": forget})["forget"]
    assert loss.item() == pytest.approx(0.5 * (2 * math.log(4) / 3) ** 2)
    assert slope(loss, forget)[0, 0, 0] > 0
    flat = table_view([[[1 / 3, 1 / 3, 1 / 3]]], bins=[[0]])
    assert Pdu(PduParameters()).forget({"forget": flat})["forget"].item() == pytest.approx(0.0, abs=1e-10)


def test_the_multiplier_rises_while_the_constraint_is_violated_and_falls_to_zero_otherwise() -> None:
    assert next_dual(1.0, loss=2.5, limit=2.0, step=0.5) == pytest.approx(1.25)
    dual, seen = 1.0, []
    for _ in range(4):
        dual = next_dual(dual, loss=1.0, limit=1.8, step=0.5)
        seen.append(dual)
    assert seen == pytest.approx([0.6, 0.2, 0.0, 0.0])
    assert next_dual(0.0, loss=1.9, limit=1.8, step=0.5) == pytest.approx(0.05)  # and it comes back


def test_the_limit_is_the_original_retain_loss_of_all_training_frames(open_method: Open) -> None:
    opened = open_method("pdu", slack=0.1, batch_retain=9, batch_boundary=6)
    method, bench = opened.method, opened.bench
    assert isinstance(method, Pdu)
    # Fresh factors: the policy is the original one. 9 frames of D_r weigh 9, those of D_b 6.
    views = {name: opened.step()._view(name) for name in ("retain", "boundary")}
    sigma = bench.parameters.label_sigma_bins
    means = {name: float(view.cross_entropy(sigma).mean().detach()) for name, view in views.items()}
    assert len(bench.rows.train["retain"]) >= 9
    expected = 1.1 * (9 * means["retain"] + 6 * means["boundary"]) / 15
    assert method.state()["limit"] == pytest.approx(expected, rel=1e-4)


def test_a_step_descends_with_the_multiplier_before_it_moves(open_method: Open) -> None:
    opened = open_method("pdu", dual_start=2.0, dual_step=0.5, slack=0.0)
    method, step = opened.method, opened.step()
    assert isinstance(method, Pdu)
    method.set_state({"dual": 2.0, "limit": 1.0})
    parts = [opened.step().gradient(loss) for loss in (method.forget, method.retain, method.repair)]
    expected = [f + 2.0 * r + c for f, r, c in zip(*parts, strict=True)]
    for left, right in zip(method.gradients(step).gradients, expected, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-7)
    assert method.state()["dual"] == pytest.approx(2.0 + 0.5 * (step.losses["retain"] - 1.0))
    assert step.losses["dual"] == method.state()["dual"]


def test_the_multiplier_survives_a_stop(
    base_dir: Path, data: EditData, settings: EditSettings, tmp_path: Path
) -> None:
    small = {"batch_forget": 4, "batch_retain": 4, "batch_boundary": 4, "batch_counterfactual": 4, "rank": 4}

    def run(out: str, seen: list[Progress], stop: int, resume: bool = False) -> list[float]:
        method = Pdu(
            PduParameters(**small, lora_alpha=8, steps=4, checkpoint_steps=2, dual_step=0.5, slack=0.0)
        )
        guard = Guard(3600, 1e6, cancelled=lambda: len(seen) >= stop)
        own = replace(settings, method=method)
        if stop < 4:
            with pytest.raises(Exception, match="cancelled"):
                edit(VlaPolicy.load(base_dir), data, own, tmp_path / out, guard, seen.append)
        else:
            edit(VlaPolicy.load(base_dir), data, own, tmp_path / out, guard, seen.append, resume)
        return [progress.losses["dual"] for progress in seen]

    whole = run("whole", [], 99)
    assert len(set(whole)) == 4
    assert run("stopped", [], 3) == whole[:3]
    # Steps 1 and 2 are in the checkpoint, 3 and 4 are made with the multiplier that was kept in it.
    assert run("stopped", [], 99, resume=True) == whole[2:]
