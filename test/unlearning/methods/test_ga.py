"""Gradient ascent by hand."""

import math

import pytest
from view_tables import slope, table_view

from vlaforget_ros.unlearning.methods.ga import Ga, GaParameters


def test_the_loss_is_minus_the_mean_nll_of_undesired_tokens() -> None:
    # Frame 1: tokens of probability 1/4 and 1/2, both undesired: (2 ln 2 + ln 2) / 2 = 1.5 ln 2.
    # Frame 2: the same, the first alone undesired: 2 ln 2. Mean: 1.75 ln 2.
    rows = [[0.25, 0.75], [0.5, 0.5]]
    forget = table_view([rows, rows], bins=[[0, 0], [0, 0]], mask=[[1.0, 1.0], [1.0, 0.0]])
    terms = Ga(GaParameters()).forget({"forget": forget})
    assert terms["forget"].item() == pytest.approx(-1.75 * math.log(2))
    gradient = slope(terms["forget"], forget)
    assert gradient[0, 0, 0] > 0  # descending makes it less likely
    assert gradient[1, 1].abs().max() == 0  # and leaves alone what is not undesired


def test_only_counterfactual_data_are_retained() -> None:
    kept = table_view([[[0.5, 0.5]]], bins=[[0]], name="retain")
    right = table_view([[[0.25, 0.75]]], bins=[[0]], name="counterfactual")
    method = Ga(GaParameters(label_sigma_bins=0.0, counterfactual_weight=2.0))
    assert method.retain({"retain": kept}) == {}
    terms = method.retain({"retain": kept, "counterfactual": right})
    assert list(terms) == ["counterfactual"]
    assert terms["counterfactual"].item() == pytest.approx(2 * math.log(4))
