"""A dense adapter is the weight's own change: training it is training the weight."""

import numpy as np
import pytest
import torch
from opened import Open

from vlaforget_ros.unlearning.lora import EditAdapter
from vlaforget_ros.unlearning.views import View


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5)])
def test_its_gradient_is_the_weights_and_its_step_the_weights_step(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    out, inside = shape
    x, layer, plain = torch.randn(3, inside), torch.nn.Linear(inside, out), torch.nn.Linear(inside, out)
    plain.load_state_dict(layer.state_dict())
    model = torch.nn.Sequential(layer)
    adapter = EditAdapter(model, rank=2, alpha=2, dense=True)  # scale 1: the change itself
    adapter.add(["0"], seed=0)
    (change,) = adapter.train(["0"])
    assert change.shape == plain.weight.shape
    for _ in range(3):
        for parameter, output in ((change, model(x)), (plain.weight, plain(x))):
            (gradient,) = torch.autograd.grad(output.square().sum(), parameter)
            with torch.no_grad():
                parameter -= 0.01 * gradient
    torch.testing.assert_close(model(x), plain(x), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(adapter.original("0") + change, plain.weight, rtol=1e-5, atol=1e-6)


def test_on_the_policy_the_gradient_is_scale_times_the_weights(open_method: Open) -> None:
    opened = open_method("salun")
    bench, bank = opened.bench, opened.bench.banks["forget"]
    rows = np.arange(4)
    through = torch.autograd.grad(View(bank, rows).nll.mean(), opened.factors)
    with bench.adapter.detached():
        weights = [bench.adapter.original(name).requires_grad_(True) for name in opened.modules]
        direct = torch.autograd.grad(View(bank, rows).nll.mean(), weights)
    for left, right in zip(through, direct, strict=True):
        torch.testing.assert_close(left, bench.adapter.scale * right, rtol=1e-3, atol=1e-7)
