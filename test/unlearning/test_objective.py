"""Each term of the objective on cases worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from vlaforget_ros.unlearning import objective


def log(*rows: list[float]) -> torch.Tensor:
    """(1, tokens, bins) log-probabilities."""
    return torch.tensor([rows]).log()


def test_kl_is_a_mean_over_tokens() -> None:
    reference, edited = log([0.5, 0.5], [0.9, 0.1]), log([0.25, 0.75], [0.9, 0.1])
    first = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    both = torch.ones(1, 2)
    assert objective.kl_divergence(reference, edited, both).item() == pytest.approx(first / 2)
    # Twice as many equal tokens change nothing: a sum would double it.
    doubled = objective.kl_divergence(
        torch.cat([reference] * 2, 1), torch.cat([edited] * 2, 1), torch.ones(1, 4)
    )
    assert doubled.item() == pytest.approx(first / 2)
    # The second token does not belong to this action.
    one = objective.kl_divergence(reference, edited, torch.tensor([[1.0, 0.0]]))
    assert one.item() == pytest.approx(first)


def test_motion_is_the_mass_around_a_bin() -> None:
    log_probs = log([0.1, 0.2, 0.3, 0.4])
    near = objective.motion_log_prob(log_probs, torch.tensor([[2]]), window=1)
    assert near.exp().item() == pytest.approx(0.9)
    assert objective.motion_log_prob(log_probs, torch.tensor([[0]]), 0).exp().item() == pytest.approx(0.1)


def test_npo_by_hand_and_its_gradient_vanishes_once_forgotten() -> None:
    beta = 0.5
    ratio = torch.tensor([0.0, -40.0], requires_grad=True)
    loss = objective.npo(ratio, beta)
    assert loss[0].item() == pytest.approx(2 / beta * math.log(2))
    assert loss[1].item() == pytest.approx(0.0, abs=1e-6)
    loss.sum().backward()
    assert ratio.grad is not None
    assert ratio.grad[0].item() == pytest.approx(1.0)  # as plain ascent at the start
    assert ratio.grad[1].item() == pytest.approx(0.0, abs=1e-6)


def test_npo_takes_the_mean_over_tokens_not_the_sum() -> None:
    reference = torch.log(torch.tensor([[0.5, 0.5]]))
    edited = torch.log(torch.tensor([[0.25, 0.125]]))
    mask = torch.ones(1, 2)
    value = objective.forget_loss(edited, reference, mask, "npo", beta=1.0, cap=9.0)
    mean_ratio = (math.log(0.5) + math.log(0.25)) / 2
    assert value.item() == pytest.approx(2 * math.log(1 + math.exp(mean_ratio)))


def test_forget_leaves_tokens_alone_that_are_not_undesired() -> None:
    reference = torch.log(torch.tensor([[0.5, 0.5], [0.5, 0.5]]))
    edited = torch.log(torch.tensor([[0.25, 0.5], [0.25, 0.5]])).requires_grad_(True)
    mask = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    for form in ("npo", "clipped", "ascent"):
        loss = objective.forget_loss(edited, reference, mask, form, beta=1.0, cap=9.0)
        (gradient,) = torch.autograd.grad(loss.sum(), edited, retain_graph=True)
        assert gradient[0, 0].item() > 0  # descending lowers the undesired motion's probability
        assert gradient[0, 1].item() == gradient[1, 0].item() == gradient[1, 1].item() == 0
    assert loss[1].item() == 0


def test_sharpening_widens_the_lead_of_the_likeliest() -> None:
    undecided = log([0.1, 0.5, 0.4])
    sharp = objective.sharpened(undecided, 3.0).exp()
    assert sharp[0, 0].tolist() == pytest.approx([0.001 / 0.19, 0.125 / 0.19, 0.064 / 0.19])
    # What leaks to text tokens is not given back, and power 1 changes nothing.
    leaking = undecided + math.log(0.5)
    torch.testing.assert_close(objective.sharpened(leaking, 1.0), leaking)
    assert objective.sharpened(leaking, 3.0).exp().sum().item() == pytest.approx(0.5)


@pytest.mark.parametrize(("form", "expected"), [("ascent", -5.0), ("clipped", -3.5)])
def test_ascent_and_its_clipped_form(form: str, expected: float) -> None:
    nll = torch.tensor([[2.0, 8.0]])
    value = objective.forget_loss(-nll, torch.zeros(1, 2), torch.ones(1, 2), form, beta=1.0, cap=5.0)
    assert value.item() == pytest.approx(expected)


def test_mismatch_pushes_apart_up_to_its_cap() -> None:
    reference, mask = log([0.5, 0.5]), torch.ones(1, 1)
    edited = log([0.25, 0.75])
    divergence = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert objective.mismatch_loss(edited, reference, mask, cap=4.0).item() == pytest.approx(-divergence)
    far = log([1e-12, 1 - 1e-7]).requires_grad_(True)
    loss = objective.mismatch_loss(far, reference, mask, cap=2.0)
    assert loss.item() == pytest.approx(-2.0)
    (gradient,) = torch.autograd.grad(loss.sum(), far)
    assert torch.all(gradient == 0)


def test_feature_loss_is_one_minus_the_cosine_of_each_patch() -> None:
    features = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
    reference = torch.tensor([[[3.0, 0.0], [1.0, 0.0]]])
    assert objective.feature_loss(features, reference).item() == pytest.approx(0.5)
