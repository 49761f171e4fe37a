"""On a real policy a small step against a method's forget gradient does what its loss says."""

import pytest
import torch
from opened import Open

TRAINED = [
    "ga",
    "grad_diff",
    "npo",
    "simnpo",
    "sam_npo",
    "ihl",
    "flat",
    "salun",
    "pdu",
    "rmu",
    "scrub",
    "task_vector",
]
# Of those, the ones whose loss is about the undesired motions themselves, and which way they then go.
UNDESIRED = {"ga": 1, "grad_diff": 1, "npo": 1, "simnpo": 1, "sam_npo": 1, "ihl": 1, "task_vector": -1}


@pytest.mark.parametrize("key", TRAINED)
def test_one_small_step_lowers_the_forget_loss(open_method: Open, key: str) -> None:
    opened = open_method(key)
    method, views = opened.method, opened.step()
    with torch.no_grad():
        # Off the start, where a divergence from the original policy has no slope.
        for place, factor in enumerate(opened.factors):
            noise = torch.randn(factor.shape, generator=torch.Generator().manual_seed(place))
            factor.add_(0.02 * noise)
    before = opened.step()
    gradient = before.gradient(method.forget)
    nll = views._view("forget").nll.mean().item()
    size = sum(float(part.square().sum()) for part in gradient)
    assert size > 0
    with torch.no_grad():
        for factor, part in zip(opened.factors, gradient, strict=True):
            factor -= 0.01 / size**0.5 * part
    after = opened.step()
    after.gradient(method.forget)
    (name,) = before.losses
    assert after.losses[name] < before.losses[name]
    # As far as the slope says: length 0.01 along a gradient of norm |g|.
    assert before.losses[name] - after.losses[name] == pytest.approx(0.01 * size**0.5, rel=0.5)
    if key in UNDESIRED:
        change = after._view("forget").nll.mean().item() - nll
        assert change * UNDESIRED[key] > 0
