"""What counts as finite."""

from __future__ import annotations

import pytest
import torch

from vlaforget_ros.finite import all_finite


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_one_bad_value_anywhere_is_found(dtype: torch.dtype) -> None:
    tensor = torch.randn(37, 53).to(dtype)
    assert all_finite(tensor, tensor[:, ::2].T)
    for bad in ("nan", "inf", "-inf"):
        for place in (0, 1000, -1):
            spoilt = tensor.clone()
            spoilt.view(-1)[place] = float(bad)
            assert not all_finite(tensor, spoilt)


def test_nothing_at_all_is_finite() -> None:
    assert all_finite()
    assert all_finite(torch.zeros(0, 4), torch.tensor(1.0), torch.tensor(3))
    assert all_finite(torch.randn(3, requires_grad=True))
