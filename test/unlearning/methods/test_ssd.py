"""SSD by hand; its Fisher information frame by frame."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from opened import Open

from vlaforget_ros.unlearning.data import EditData
from vlaforget_ros.unlearning.fisher import diagonal_fisher
from vlaforget_ros.unlearning.methods.ssd import dampening
from vlaforget_ros.unlearning.views import View

PROJECTOR = ["projector.fc1", "projector.fc2"]


def test_dampening_by_hand() -> None:
    # alpha 10, lambda 1. 20 > 10 * 1: 1/20. 10 > 10 * 1 does not hold. 5 > 0: 0. 0 > 0 does not hold.
    forget, retain = torch.tensor([20.0, 10.0, 5.0, 0.0]), torch.tensor([1.0, 1.0, 0.0, 0.0])
    assert dampening(forget, retain, 10.0, 1.0).tolist() == pytest.approx([0.05, 1.0, 0.0, 1.0])
    # lambda 30: 30 / 20 is more than 1; a weight is never made larger.
    assert dampening(forget, retain, 10.0, 30.0).tolist() == pytest.approx([1.0, 1.0, 0.0, 1.0])
    tiny = torch.tensor([4e-34]), torch.tensor([1e-34])
    assert dampening(*tiny, alpha=2.0, strength=1.0).item() == pytest.approx(0.25)


def test_the_fisher_information_is_a_mean_of_squares_of_single_frames(
    open_method: Open, data: EditData
) -> None:
    # Frames that disagree: every other one was recorded with the opposite motion.
    actions = data.forget.actions.copy()
    actions[::2] *= -1
    opened = open_method("ssd", replace(data, forget=replace(data.forget, actions=actions, desired=None)))
    bench = opened.bench
    with bench.adapter.detached():
        found = diagonal_fisher(bench, PROJECTOR, ("forget",), 99)
        assert not any(parameter.requires_grad for parameter in bench.policy.model.parameters())
        rows, bank = bench.rows.train["forget"], bench.banks["forget"]
        bench.enter_at(bench.network.entry(PROJECTOR))
        weights = [bench.adapter.original(name) for name in PROJECTOR]
        for weight in weights:
            weight.requires_grad_(True)
        single = [torch.autograd.grad(View(bank, np.array([row])).nll.sum(), weights) for row in rows]
        batch = torch.autograd.grad(View(bank, rows).nll.mean(), weights)
    for place, value in enumerate(found):
        by_hand = sum(gradients[place] ** 2 for gradients in single) / len(rows)
        torch.testing.assert_close(value, by_hand, rtol=1e-4, atol=1e-12)
        # The square of the mean is smaller wherever frames disagree (Jensen).
        assert value.sum() > 1.05 * batch[place].square().sum()
        assert (value >= batch[place].square() * (1 - 1e-3) - 1e-12).all()


def test_several_sets_are_one_mean_over_all_their_frames(open_method: Open) -> None:
    opened = open_method("ssd")
    bench = opened.bench
    with bench.adapter.detached():
        retain, boundary, both = (
            diagonal_fisher(bench, PROJECTOR, sets, 5)
            for sets in (("retain",), ("boundary",), ("retain", "boundary", "no such set"))
        )
    for left, right, mean in zip(retain, boundary, both, strict=True):
        torch.testing.assert_close(mean, (left + right) / 2, rtol=1e-4, atol=1e-12)


def test_frames_without_an_undesired_token_do_not_dilute_it(open_method: Open) -> None:
    opened = open_method("ssd")
    bench = opened.bench
    bank, rows = bench.banks["forget"], bench.rows.train["forget"]
    bench.seed = 0
    with bench.adapter.detached():
        bank.mask[rows[1:]] = 0.0
        (first,) = diagonal_fisher(bench, PROJECTOR[:1], ("forget",), 99)
        weight = bench.adapter.original(PROJECTOR[0]).requires_grad_(True)
        (gradient,) = torch.autograd.grad(View(bank, rows[:1]).nll.sum(), weight)
    torch.testing.assert_close(first, gradient.square(), rtol=1e-4, atol=1e-12)


def test_what_is_stored_is_the_change_of_the_dampened_weights(open_method: Open) -> None:
    opened = open_method("ssd", alpha=1.0, fisher_frames=6)
    bench, method = opened.bench, opened.method
    with bench.adapter.detached():
        forget = diagonal_fisher(bench, opened.modules, ("forget",), 6)
        retain = diagonal_fisher(bench, opened.modules, ("retain", "boundary", "counterfactual"), 6)
    method.finish(bench, opened.modules)
    changed = 0
    for place, name in enumerate(opened.modules):
        weight = bench.adapter.original(name).detach()
        expected = weight * dampening(forget[place], retain[place], 1.0, 1.0)
        a, b = bench.adapter.factors(name)
        torch.testing.assert_close(weight + bench.adapter.scale * b @ a, expected, rtol=1e-5, atol=1e-6)
        changed += int((expected != weight).sum())
    assert changed > 0
