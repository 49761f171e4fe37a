"""Gradient difference by hand."""

import math

import pytest
from view_tables import table_view

from vlaforget_ros.unlearning.methods.grad_diff import GradDiff, GradDiffParameters


def test_both_groups_by_hand() -> None:
    parameters = GradDiffParameters(gamma=2.0, alpha=3.0, counterfactual_weight=5.0, label_sigma_bins=0.0)
    views = {
        "forget": table_view([[[0.25, 0.75]]], bins=[[0]]),
        "retain": table_view([[[0.5, 0.5]], [[0.5, 0.5]]], bins=[[0], [1]]),
        "boundary": table_view([[[0.25, 0.75]]], bins=[[0]]),
        "counterfactual": table_view([[[0.5, 0.5]]], bins=[[1]]),
    }
    method = GradDiff(parameters)
    assert method.forget(views)["forget"].item() == pytest.approx(-2 * math.log(4))
    terms = method.retain(views)
    # The mean over all frames of D_r and D_b: (ln 2 + ln 2 + ln 4) / 3 = 4/3 ln 2; times alpha.
    assert terms["retain"].item() == pytest.approx(3 * 4 / 3 * math.log(2))
    assert terms["counterfactual"].item() == pytest.approx(3 * 5 * math.log(2))
