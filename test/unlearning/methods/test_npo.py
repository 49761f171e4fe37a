"""NPO by hand."""

import math

import pytest
from view_tables import slope, table_view

from vlaforget_ros.unlearning.methods.npo import Npo, NpoParameters


def test_the_loss_by_hand_with_a_mean_over_tokens() -> None:
    # Log-ratios ln(1/4 : 1/2) = -ln 2 and ln(1/8 : 1/2) = -2 ln 2, mean -1.5 ln 2; beta 2:
    # (2/2) ln(1 + exp(2 * -1.5 ln 2)) = ln(1 + 1/8). Summed over tokens it would be ln(1 + 1/64).
    forget = table_view([[[0.25, 0.75], [0.125, 0.875]]], bins=[[0, 0]], reference=[[[0.5, 0.5], [0.5, 0.5]]])
    loss = Npo(NpoParameters(beta=2.0)).forget({"forget": forget})["forget"]
    assert loss.item() == pytest.approx(math.log(9 / 8))


def test_the_slope_is_that_of_ascent_at_first_and_fades_once_forgotten() -> None:
    even = [[[0.5, 0.5]]]
    # d/d log p of (2/beta) ln(1 + r^beta) is 2 r^beta / (1 + r^beta): 1 at r = 1. On the logit: 1 * (1 - p) = 1/2.
    fresh = table_view(even, bins=[[0]], reference=even)
    method = Npo(NpoParameters(beta=2.0))
    gradient = slope(method.forget({"forget": fresh})["forget"], fresh)
    assert gradient[0, 0].tolist() == pytest.approx([0.5, -0.5])
    # r = 0.02: 2 * 0.0004 / 1.0004 * (1 - 0.01).
    gone = table_view([[[0.01, 0.99]]], bins=[[0]], reference=even)
    gradient = slope(method.forget({"forget": gone})["forget"], gone)
    assert gradient[0, 0, 0].item() == pytest.approx(2 * 0.0004 / 1.0004 * 0.99, rel=1e-4)


def test_frames_without_an_undesired_token_add_nothing() -> None:
    even = [[0.5, 0.5]]
    forget = table_view([even, even], bins=[[0], [0]], mask=[[1.0], [0.0]], reference=[even, even])
    loss = Npo(NpoParameters(beta=1.0)).forget({"forget": forget})["forget"]
    assert loss.item() == pytest.approx(2 * math.log(2) / 2)  # one of two frames counts
