"""Task arithmetic: tuned towards D_f, then as far the other way."""

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
from vlaforget_ros.unlearning.methods.task_vector import TaskVector, TaskVectorParameters


def test_tuning_descends_on_the_undesired_motions() -> None:
    forget = table_view([[[0.25, 0.75]]], bins=[[0]])
    loss = TaskVector(TaskVectorParameters()).forget({"forget": forget})["forget"]
    assert loss.item() == pytest.approx(math.log(4))
    assert slope(loss, forget)[0, 0].tolist() == pytest.approx([-0.75, 0.75])  # p - 1, p


def test_the_change_is_negated_and_scaled(open_method: Open) -> None:
    opened = open_method("task_vector", alpha=0.5)
    adapter = opened.bench.adapter
    with torch.no_grad():
        for place, factor in enumerate(opened.factors):
            factor.normal_(generator=torch.Generator().manual_seed(place))
    tuned = {name: b @ a for name, (a, b) in adapter.tensors().items()}
    opened.method.finish(opened.bench, opened.modules)
    for name, (a, b) in adapter.tensors().items():
        torch.testing.assert_close(b @ a, -0.5 * tuned[name])


@pytest.mark.parametrize("repaired", [True, False])
def test_repair_follows_where_there_is_something_to_repair_with(
    base_dir: Path, data: EditData, settings: EditSettings, tmp_path: Path, repaired: bool
) -> None:
    small = {"batch_forget": 4, "batch_retain": 4, "batch_boundary": 4, "batch_counterfactual": 4, "rank": 4}
    method = TaskVector(TaskVectorParameters(**small, lora_alpha=8, steps=3))
    sets = data if repaired else replace(data, counterfactual=None)
    own = replace(settings, method=method)
    result = edit(VlaPolicy.load(base_dir), sets, own, tmp_path, Guard(3600, 1e6))
    assert [done.stage for done in result.rounds] == ["negate", "repair"][: 2 if repaired else 1]
    negate = result.rounds[0]
    losses = [point["forget"] for point in negate.curve]
    assert losses == sorted(losses, reverse=True)  # while it is tuned the undesired becomes likelier ...
    assert negate.after["undesired"] < result.before.undesired  # ... and less likely once that is negated
