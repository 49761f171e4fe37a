"""The control: fine-tuning, and nothing that forgets."""

import math

import pytest
import torch
from view_tables import table_view

from vlaforget_ros.unlearning.methods.corrected import Corrected
from vlaforget_ros.unlearning.parameters import JointParameters


def test_there_is_no_forget_term_and_the_retain_loss_is_cross_entropy() -> None:
    views = {
        "forget": table_view([[[0.25, 0.75]]], bins=[[0]]),
        "retain": table_view([[[0.125, 0.875]]], bins=[[0]]),
        "counterfactual": table_view([[[0.5, 0.5]]], bins=[[1]]),
    }
    method = Corrected(JointParameters(label_sigma_bins=0.0, counterfactual_weight=3.0))
    assert method.forget(views) == {}
    terms = method.retain(views)
    assert terms["retain"].item() == pytest.approx(3 * math.log(2))
    assert terms["counterfactual"].item() == pytest.approx(3 * math.log(2))


def test_soft_labels_spread_over_neighbours() -> None:
    # Bins 0, 1, 2 around the recorded 1, sigma 1: weights e^-0.5, 1, e^-0.5 over their sum.
    table = [[[0.25, 0.5, 0.25]]]
    side = math.exp(-0.5) / (1 + 2 * math.exp(-0.5))
    method = Corrected(JointParameters(label_sigma_bins=1.0))
    loss = method.retain({"retain": table_view(table, bins=[[1]])})["retain"]
    assert loss.item() == pytest.approx(2 * side * math.log(4) + (1 - 2 * side) * math.log(2))
    assert torch.isfinite(loss)
