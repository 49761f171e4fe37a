"""Gradient surgery by hand."""

from __future__ import annotations

import pytest
import torch

from vlaforget_ros.unlearning.pcgrad import combine


def vector(*values: float) -> list[torch.Tensor]:
    """A gradient over two parameters."""
    return [torch.tensor(values[:1]), torch.tensor(values[1:])]


def flat(gradients: list[torch.Tensor]) -> list[float]:
    return torch.cat(gradients).tolist()


def test_conflicting_gradients_lose_what_works_against_the_other() -> None:
    # f = (1, 0), r = (-1, 1): f.r = -1. f' = f - (-1/2) r = (.5, .5); r' = r - (-1/1) f = (0, 1).
    done = combine(vector(1.0, 0.0), vector(-1.0, 1.0))
    assert done.projected
    assert flat(done.gradients) == pytest.approx([0.5, 1.5])
    assert done.cosine == pytest.approx(-1 / 2**0.5)


def test_the_order_does_not_matter_because_the_originals_are_projected_on() -> None:
    left = combine(vector(1.0, 0.5), vector(-2.0, 1.0))
    right = combine(vector(-2.0, 1.0), vector(1.0, 0.5))
    assert flat(left.gradients) == pytest.approx(flat(right.gradients))


def test_agreeing_gradients_are_added() -> None:
    done = combine(vector(1.0, 0.0), vector(1.0, 1.0))
    assert not done.projected
    assert flat(done.gradients) == [2.0, 1.0]


def test_switched_off_it_adds_whatever_the_conflict() -> None:
    done = combine(vector(1.0, 0.0), vector(-1.0, 1.0), enabled=False)
    assert not done.projected
    assert flat(done.gradients) == [0.0, 1.0]


def test_a_vanishing_group_changes_nothing() -> None:
    done = combine(vector(0.0, 0.0), vector(-1.0, 1.0))
    assert done.cosine == 0
    assert flat(done.gradients) == [-1.0, 1.0]
