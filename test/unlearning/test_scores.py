"""Layer scores by hand, from norms and cosines of each layer by itself."""

from __future__ import annotations

import math

import pytest
import torch

from vlaforget_ros.unlearning.ranking import upper_first
from vlaforget_ros.unlearning.scores import phi, score_layers, significance


def one(*values: float) -> list[torch.Tensor]:
    return [torch.tensor(values)]


def test_phi_by_hand() -> None:
    assert phi(weight_norm=5.0, forget_norm=2.0, cosine=0.5, alpha=2.0) == pytest.approx(0.4 * 0.25)
    assert phi(weight_norm=5.0, forget_norm=2.0, cosine=0.5, alpha=0.0) == pytest.approx(0.4)


def test_significance_by_hand() -> None:
    assert significance(forget_norm=3.0, retain_norm=1.5) == pytest.approx(2.0)


def test_scores_use_each_layers_own_gradients() -> None:
    weights = {"a": one(3.0, 4.0), "b": one(3.0, 4.0)}
    forget = {"a": one(1.0, 0.0), "b": one(2.0, 0.0)}
    retain = {"a": one(-1.0, 0.0), "b": one(2.0, 0.0)}
    best, second = score_layers(weights, forget, retain, "phi", alpha=1.0)
    assert (best.layer, best.cosine, best.score) == ("a", -1.0, pytest.approx(1 / 5 * 2))
    # Larger gradient, but it pulls exactly where retaining pulls.
    assert (second.layer, second.score) == ("b", pytest.approx(0.0))


def test_a_layers_matrices_are_one_vector() -> None:
    weights = {"a": [torch.tensor([[3.0]]), torch.tensor([4.0])]}
    forget = {"a": [torch.tensor([[1.0]]), torch.tensor([1.0])]}
    retain = {"a": [torch.tensor([[1.0]]), torch.tensor([-1.0])]}
    (score,) = score_layers(weights, forget, retain, "sig", alpha=1.0)
    assert (score.weight_norm, score.cosine) == (5.0, 0.0)
    assert score.forget_norm == pytest.approx(math.sqrt(2))
    assert score.score == pytest.approx(1.0)


def test_language_stage_ranks_upper_blocks_first() -> None:
    weights = {name: one(1.0) for name in "abc"}
    forget = {"a": one(9.0), "b": one(1.0), "c": one(2.0)}
    retain = {name: one(1.0) for name in "abc"}
    ranked = upper_first(score_layers(weights, forget, retain, "sig", 1.0), ["a", "b", "c"], share=0.67)
    assert [score.layer for score in ranked] == ["c", "b", "a"]
