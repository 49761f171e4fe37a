"""The inverted hinge and FILA by hand."""

import numpy as np
import pytest
import torch
from opened import Open
from view_tables import slope, table_view

from vlaforget_ros.unlearning.methods.ihl import (
    Ihl,
    IhlParameters,
    inverted_hinge,
    relative_importance,
    weighted_low_rank,
)
from vlaforget_ros.unlearning.objective import motion_log_prob


def test_the_hinge_by_hand_token_by_token() -> None:
    # 1 + p(recorded) - max p(other): 1 + 0.2 - 0.5 = 0.7 and 1 + 0.6 - 0.3 = 1.3; mean 1.0, the second alone 1.3.
    rows = [[0.2, 0.5, 0.3], [0.1, 0.3, 0.6]]
    both = table_view([rows], bins=[[0, 2]])
    second = table_view([rows], bins=[[0, 2]], mask=[[0.0, 1.0]])
    method = Ihl(IhlParameters())
    assert method.forget({"forget": both})["forget"].item() == pytest.approx(1.0)
    assert method.forget({"forget": second})["forget"].item() == pytest.approx(1.3)
    gradient = slope(method.forget({"forget": second})["forget"], second)[0, 1]
    # Down with the recorded, up with the next most likely; d/dz_i = p_i (c_i - sum_j c_j p_j), c = (0, -1, 1):
    # sum 0.3, so (0.1 * -0.3, 0.3 * -1.3, 0.6 * 0.7).
    assert gradient.tolist() == pytest.approx([-0.03, -0.39, 0.42])


def test_another_motion_is_one_whose_window_does_not_overlap() -> None:
    # Window 1, recorded bin 1: its motion is 0.1 + 0.2 + 0.3 = 0.6. Bins 2 and 3 share bins with it; bin 4's window
    # holds 0.05 + 0.15 + 0.15 = 0.35, bin 5's 0.15 + 0.15 + 0.05 = 0.35, bin 6's 0.2.
    row = torch.tensor([[[0.1, 0.2, 0.3, 0.05, 0.15, 0.15, 0.05]]]).log()
    bins = torch.tensor([[1]])
    loss = inverted_hinge(row, motion_log_prob(row, bins, 1), bins, window=1)
    assert loss.item() == pytest.approx(1 + 0.6 - 0.35)


def test_importance_is_a_ratio_that_a_vanishing_fisher_does_not_blow_up() -> None:
    forget, retain = torch.tensor([4.0, 1.0]), torch.tensor([2.0, 0.0])
    # The mean of F_r is 1: eps = 0.001.
    assert relative_importance(forget, retain).tolist() == pytest.approx([4 / 2.001, 1 / 0.001])


def test_a_row_that_matters_is_approximated_first() -> None:
    # Plainly the best rank 1 of diag(3, 2) keeps the 3; with row weights 1 and 9 (roots 1 and 3) it keeps the 2,
    # as 3 * 2 = 6 exceeds 1 * 3.
    weight = torch.tensor([[3.0, 0.0], [0.0, 2.0]])
    a, b = weighted_low_rank(weight, torch.tensor([[0.5, 0.5], [4.0, 5.0]]), rank=1)
    torch.testing.assert_close(b @ a, torch.tensor([[0.0, 0.0], [0.0, 2.0]]), atol=1e-5, rtol=0)
    a, b = weighted_low_rank(weight, torch.ones(2, 2), rank=1)
    torch.testing.assert_close(b @ a, torch.tensor([[3.0, 0.0], [0.0, 0.0]]), atol=1e-5, rtol=0)


def test_no_other_factors_have_a_smaller_weighted_error() -> None:
    weight = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    importance = torch.tensor([1.0, 4.0, 9.0, 16.0, 25.0])[:, None].expand(5, 4) / 4
    a, b = weighted_low_rank(weight, importance, rank=2)
    scaled = importance.sum(1).sqrt()[:, None] * (weight - b @ a)
    # Eckart and Young: what is left of diag(1, 2, 3, 4, 5) W are its smaller singular values.
    left = torch.linalg.svdvals(torch.arange(1.0, 6.0)[:, None] * weight)[2:]
    assert scaled.square().sum().item() == pytest.approx(left.square().sum().item(), rel=1e-4)


def test_ranks_that_a_weight_does_not_have_are_zeros() -> None:
    a, b = weighted_low_rank(torch.eye(2), torch.ones(2, 2), rank=4)
    assert (a.shape, b.shape) == ((4, 2), (2, 4))
    torch.testing.assert_close(b @ a, torch.eye(2), atol=1e-5, rtol=0)
    assert a[2:].abs().max() == 0


def test_fila_starts_with_the_policy_as_it_was_and_with_factors_that_are_not_zero(open_method: Open) -> None:
    opened = open_method("ihl", fila=True)
    adapter, bank = opened.bench.adapter, opened.bench.banks["retain"]
    rows = np.arange(len(bank))
    now = bank.log_probs(bank.fresh(rows))
    torch.testing.assert_close(now, bank.reference, atol=1e-4, rtol=1e-4)
    for name in opened.modules:
        a, b = adapter.factors(name)
        assert a.shape[0] == 8  # twice the rank of the request
        assert torch.equal(a[:4], a[4:])
        assert torch.equal(b[:, :4], -b[:, 4:])
        assert b.abs().max() > 0
        # Either half is a part of the weight itself: rank 4, and nearer to it than nothing is.
        half = adapter.scale * b[:, :4] @ a[:4]
        weight = adapter.original(name)
        assert torch.linalg.matrix_rank(half) <= 4
        assert half.abs().max() <= 10 * weight.abs().max()
