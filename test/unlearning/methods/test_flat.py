"""FLAT by hand, and its template."""

import math
from dataclasses import replace

import pytest
import torch
from opened import Open

from vlaforget_ros.errors import ErrorCode, UnlearningError
from vlaforget_ros.policy.labels import bins_of
from vlaforget_ros.unlearning.data import EditData
from vlaforget_ros.unlearning.methods.flat import Flat, FlatParameters, flat_loss


def test_both_divergences_by_hand() -> None:
    template, forget = torch.tensor([0.25]), torch.tensor([0.5])
    # Total variation: -tanh(P(template)) / 2 + tanh(P(forget)) / 2; KL: -P(template) + exp(P(forget) - 1).
    assert flat_loss(template, forget, "tv").item() == pytest.approx((math.tanh(0.5) - math.tanh(0.25)) / 2)
    assert flat_loss(template, forget, "kl").item() == pytest.approx(-0.25 + math.exp(-0.5))


@pytest.mark.parametrize("divergence", ["tv", "kl"])
def test_descending_raises_the_template_and_lowers_the_forget_answer(divergence: str) -> None:
    template, forget = torch.tensor([0.25], requires_grad=True), torch.tensor([0.5], requires_grad=True)
    flat_loss(template, forget, divergence).sum().backward()
    assert template.grad is not None
    assert forget.grad is not None
    assert template.grad.item() < 0 < forget.grad.item()


def test_the_loss_on_a_real_bank_is_made_of_mean_token_probabilities(open_method: Open) -> None:
    opened = open_method("flat", forget_window_bins=0)
    step, bank = opened.step(), opened.bench.banks["forget"]
    step.gradient(opened.method.forget)
    rows = torch.from_numpy(step.rows["forget"])
    codec = opened.bench.policy.codec
    (hold,) = bins_of(torch.from_numpy(codec.encode(codec.hold[None])), codec)
    # Fresh factors change nothing: the reference's probabilities, of one bin each, at undesired tokens.
    probabilities, values = bank.reference[rows].exp(), []
    for frame, row in enumerate(rows):
        tokens = [token for token in range(4) if bank.mask[row, token]]
        good = sum(probabilities[frame, token, hold[token]].item() for token in tokens) / len(tokens)
        bad = sum(probabilities[frame, token, bank.bins[row, token]].item() for token in tokens) / len(tokens)
        values.append((math.tanh(bad) - math.tanh(good)) / 2)
    assert step.losses["forget"] == pytest.approx(sum(values) / len(values), abs=1e-6)


def test_a_template_of_desired_actions_needs_them(open_method: Open, data: EditData) -> None:
    opened = open_method("flat", template="desired")
    codec, desired = opened.bench.policy.codec, data.forget.desired
    assert isinstance(opened.method, Flat)
    assert torch.equal(opened.method._template, bins_of(torch.from_numpy(codec.encode(desired)), codec))
    with pytest.raises(UnlearningError, match="ask_policy") as error:
        open_method("flat", replace(data, forget=replace(data.forget, desired=None)), template="desired")
    assert error.value.code == ErrorCode.UNLEARNING_BAD_REQUEST
    assert FlatParameters().template == "hold"
