"""SalUn's mask and labels by hand."""

import math

import pytest
import torch
from opened import Open
from view_tables import table_view

from vlaforget_ros.unlearning.methods.salun import SalUn, SalUnParameters, other_bins, salient


def test_the_mask_is_over_all_tensors_together() -> None:
    gradients = [torch.tensor([[0.1, -4.0]]), torch.tensor([3.0, -0.2])]
    assert [mask.tolist() for mask in salient(gradients, 0.5)] == [[[0.0, 1.0]], [1.0, 0.0]]
    assert [mask.tolist() for mask in salient(gradients, 0.75)] == [[[0.0, 1.0]], [1.0, 1.0]]


def test_weights_without_any_gradient_are_never_salient() -> None:
    (mask,) = salient([torch.tensor([0.0, 0.0, 0.0, 1.0])], 0.5)
    assert mask.tolist() == [0.0, 0.0, 0.0, 1.0]


def test_a_random_motion_is_never_the_recorded_one_and_any_other_may_come() -> None:
    bins = torch.full((400, 2), 2)
    bins[:, 1] = 9
    drawn = other_bins(bins, count=10, window=1, seed=0)
    # More than 1 away from bin 2: 0 and 4 to 9; from bin 9: 0 to 7.
    assert set(drawn[:, 0].tolist()) == {0, 4, 5, 6, 7, 8, 9}
    assert set(drawn[:, 1].tolist()) == set(range(8))
    assert torch.equal(drawn, other_bins(bins, 10, 1, seed=0))
    assert not torch.equal(drawn, other_bins(bins, 10, 1, seed=1))


def test_a_window_as_wide_as_the_range_still_leaves_a_choice() -> None:
    # Four bins, window 3: narrowed to 1. From bin 1 only bin 3 is left, from bin 0 bins 2 and 3.
    drawn = other_bins(torch.tensor([[1, 0]] * 50), count=4, window=3, seed=0)
    assert set(drawn[:, 0].tolist()) == {3}
    assert set(drawn[:, 1].tolist()) == {2, 3}


def test_the_loss_is_cross_entropy_to_the_random_motion_at_undesired_tokens() -> None:
    method = SalUn(SalUnParameters(label_sigma_bins=0.0, alpha=2.0))
    method._labels = torch.tensor([[1, 0]])
    row = [[0.5, 0.25, 0.25], [0.125, 0.5, 0.375]]
    forget = table_view([row], bins=[[0, 1]])
    # -ln 1/4 and -ln 1/8: mean 2.5 ln 2; with the first token undesired alone 2 ln 2.
    assert method.forget({"forget": forget})["forget"].item() == pytest.approx(2.5 * math.log(2))
    forget = table_view([row], bins=[[0, 1]], mask=[[1.0, 0.0]])
    assert method.forget({"forget": forget})["forget"].item() == pytest.approx(2 * math.log(2))
    terms = method.retain({"retain": table_view([[[0.5, 0.5]]], bins=[[0]])})
    assert terms["retain"].item() == pytest.approx(2 * math.log(2))


def test_half_of_the_weights_of_a_real_policy_are_trained(open_method: Open) -> None:
    opened = open_method("salun")
    assert opened.masks is not None
    kept, count = sum(float(m.sum()) for m in opened.masks), sum(m.numel() for m in opened.masks)
    assert kept / count == pytest.approx(0.5, abs=1e-4)
    bank = opened.bench.banks["forget"]
    assert isinstance(opened.method, SalUn)
    assert ((opened.method._labels - bank.bins).abs() > bank.window).all()
