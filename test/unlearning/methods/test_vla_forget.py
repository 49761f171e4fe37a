"""VLA-Forget's weighted terms by hand; its stages are tested in test_edit.py, each term in test_objective.py."""

import math

import pytest
import torch
from view_tables import table_view

from vlaforget_ros.unlearning.methods.vla_forget import VlaForget, VlaForgetParameters

EVEN, SKEWED = [[[0.5, 0.5]]], [[[0.25, 0.75]]]
DIVERGENCE = 0.5 * math.log(4 / 3)  # KL(EVEN || SKEWED) = 0.5 ln(0.5 / 0.25) + 0.5 ln(0.5 / 0.75)


def method(**own: float) -> VlaForget:
    parameters = {"label_sigma_bins": 0.0, "npo_beta": 1.0, "kl_sharpness": 1.0, **own}
    return VlaForget(VlaForgetParameters(**parameters))  # type: ignore[arg-type]


def test_the_forget_group_by_hand() -> None:
    views = {"forget": table_view(SKEWED, bins=[[0]], reference=EVEN)}
    terms = method(lambda_f=2.0, lambda_m=3.0).forget(views)
    # NPO with beta 1 and ratio 1/2: 2 ln(1 + 1/2).
    assert terms["forget"].item() == pytest.approx(2.0 * 2 * math.log(1.5))
    assert terms["mismatch"].item() == pytest.approx(-3.0 * DIVERGENCE)
    assert method(lambda_f=0.0, lambda_m=0.0).forget(views) == {}


def test_the_retain_group_by_hand() -> None:
    views = {
        "retain": table_view(SKEWED, bins=[[0]], reference=EVEN),
        "boundary": table_view(EVEN, bins=[[0]], reference=EVEN),
        "counterfactual": table_view(EVEN, bins=[[1]]),
    }
    terms = method(kl_weight=10.0, counterfactual_weight=3.0).retain(views)
    assert terms["retain"].item() == pytest.approx(math.log(4))  # D_r alone
    assert terms["kl"].item() == pytest.approx(10 * DIVERGENCE / 2)  # mean over D_r and D_b
    assert terms["counterfactual"].item() == pytest.approx(3 * math.log(2))
    assert "feature" not in terms  # nothing visual is trained


def test_the_two_groups_lose_what_works_against_each_other_unless_that_is_switched_off() -> None:
    forget, retain = [torch.tensor([1.0, 0.0])], [torch.tensor([-1.0, 1.0])]
    assert method(pcgrad=True).surgery(forget, retain).gradients[0].tolist() == pytest.approx([0.5, 1.5])
    assert method(pcgrad=False).surgery(forget, retain).gradients[0].tolist() == [0.0, 1.0]
