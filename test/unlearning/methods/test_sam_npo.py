"""The sharpness-aware step: where its gradient is taken, and that nothing is left of the move."""

import math

import pytest
import torch
from opened import Open


def test_a_move_is_along_the_direction_and_undone_bit_for_bit(open_method: Open) -> None:
    opened = open_method("sam_npo")
    step = opened.step()
    with torch.no_grad():
        for place, factor in enumerate(opened.factors):
            factor.normal_(generator=torch.Generator().manual_seed(place))
    before = [factor.detach().clone() for factor in opened.factors]
    direction = [torch.ones_like(factor) for factor in opened.factors]
    count = sum(factor.numel() for factor in opened.factors)
    with step.moved(direction, 0.5):
        # Length 0.5 over `count` equal parts: 0.5 / sqrt(count) each.
        for factor, old in zip(opened.factors, before, strict=True):
            torch.testing.assert_close(
                factor - old, torch.full_like(old, 0.5 / math.sqrt(count)), atol=1e-6, rtol=0
            )
    assert all(map(torch.equal, opened.factors, before))
    with pytest.raises(RuntimeError, match="stop"), step.moved(direction, 0.5):
        raise RuntimeError("stop")
    assert all(map(torch.equal, opened.factors, before))


def test_a_vanishing_direction_moves_nothing(open_method: Open) -> None:
    opened = open_method("sam_npo")
    before = [factor.detach().clone() for factor in opened.factors]
    with opened.step().moved([torch.zeros_like(factor) for factor in opened.factors], 0.5):
        assert all(map(torch.equal, opened.factors, before))


def test_the_forget_gradient_is_the_worst_neighbours_and_the_retain_gradient_the_policys_own(
    open_method: Open,
) -> None:
    opened = open_method("sam_npo", rho=0.05)
    method, before = opened.method, [factor.detach().clone() for factor in opened.factors]
    forget, retain = opened.step().gradient(method.forget), opened.step().gradient(method.retain)
    norm = math.sqrt(sum(float(part.square().sum()) for part in forget))
    with torch.no_grad():
        for factor, part in zip(opened.factors, forget, strict=True):
            factor += 0.05 / norm * part
    at_neighbour = opened.step()
    neighbour = at_neighbour.gradient(method.forget)
    with torch.no_grad():
        for factor, old in zip(opened.factors, before, strict=True):
            factor.copy_(old)
    step = opened.step()
    found = method.gradients(step).gradients
    assert all(map(torch.equal, opened.factors, before))
    for left, n, r in zip(found, neighbour, retain, strict=True):
        torch.testing.assert_close(left, n + r, rtol=1e-4, atol=1e-7)
    # Uphill: the neighbour has forgotten less.
    here = opened.step()
    here.gradient(method.forget)
    assert step.losses["forget"] == pytest.approx(at_neighbour.losses["forget"])
    assert step.losses["forget"] > here.losses["forget"]
