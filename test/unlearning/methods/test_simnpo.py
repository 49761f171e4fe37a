"""SimNPO by hand."""

import math

import pytest
from view_tables import slope, table_view

from vlaforget_ros.unlearning.methods.simnpo import SimNpo, SimNpoParameters


def test_the_loss_by_hand_without_a_reference() -> None:
    # Probabilities 1/4 and 1: mean log-probability -ln 2; beta 2, gamma ln 3:
    # -(2/2) ln sigmoid(-2 * -ln 2 - ln 3) = ln(1 + exp(ln 3 - 2 ln 2)) = ln(1 + 3/4).
    row = [[0.25, 0.75], [1.0 - 1e-7, 1e-7]]
    far = [[0.5, 0.5], [0.5, 0.5]]
    for reference in (row, far):
        forget = table_view([row], bins=[[0, 0]], reference=[reference])
        loss = SimNpo(SimNpoParameters(beta=2.0, gamma=math.log(3))).forget({"forget": forget})["forget"]
        assert loss.item() == pytest.approx(math.log(7 / 4), rel=1e-5)


def test_descending_lowers_the_motion_and_less_so_when_it_is_unlikely() -> None:
    likely = table_view([[[0.5, 0.5]]], bins=[[0]])
    method = SimNpo(SimNpoParameters(beta=2.0))
    # d/d log p: 2 p^2 / (1 + p^2) = 0.4 at p = 1/2; on the logit times 1 - p.
    gradient = slope(method.forget({"forget": likely})["forget"], likely)
    assert gradient[0, 0].tolist() == pytest.approx([0.2, -0.2])
    rare = table_view([[[0.1, 0.9]]], bins=[[0]])
    gradient = slope(method.forget({"forget": rare})["forget"], rare)
    assert gradient[0, 0, 0].item() == pytest.approx(2 * 0.01 / 1.01 * 0.9)
