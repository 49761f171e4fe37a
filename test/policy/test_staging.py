"""How an adapter gets to the model's device: decided by the type of the device, nothing asked of a GPU."""

from __future__ import annotations

import pytest
import torch
from engine_parts import random_weights
from torch import nn

from vlaforget_ros.policy.merged import FixedSlots, MergedSlots
from vlaforget_ros.policy.slots import AdapterSlots
from vlaforget_ros.policy.staging import PinnedStaging, PlainStaging, staging_to


@pytest.mark.parametrize(
    ("device", "kind"),
    [("cpu", PlainStaging), ("meta", PlainStaging), ("cuda", PinnedStaging), ("cuda:1", PinnedStaging)],
)
def test_the_type_of_the_device_decides(device: str, kind: type) -> None:
    assert type(staging_to(torch.device(device))) is kind


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_processor_it_is_a_copy_in_the_model_s_type(dtype: torch.dtype) -> None:
    tensor = torch.randn(4, 6, requires_grad=True)
    with staging_to(torch.device("cpu")) as staging:
        sent = staging.send(tensor.T, dtype)
    assert sent.dtype == dtype
    assert sent.is_contiguous()
    assert not sent.requires_grad
    assert torch.equal(sent, tensor.T.to(dtype))
    with torch.no_grad():
        tensor.zero_()
    assert sent.abs().sum() > 0, "what is staged does not change with what was read"


def test_a_device_that_runs_out_of_memory_half_way_through_a_flip_keeps_the_old_adapter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)).eval()
    slots, shown = FixedSlots(model), torch.randn(3, 8)
    first, second = (slots.stage(random_weights(model, seed, "0" * 64)) for seed in (1, 2))
    base = model(shown)
    empty_like, calls = torch.empty_like, []

    def short_of_memory(tensor: torch.Tensor) -> torch.Tensor:
        calls.append(tensor)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return empty_like(tensor)

    monkeypatch.setattr(torch, "empty_like", short_of_memory)
    with pytest.raises(torch.OutOfMemoryError):
        slots.activate(first)
    assert torch.equal(model(shown), base), "no layer has the new adapter's weights"
    slots.activate(first)
    with_first = model(shown)
    assert not torch.equal(with_first, base)
    monkeypatch.setattr(torch, "empty_like", None)  # from here on no flip needs memory
    slots.activate(second)
    assert not torch.equal(model(shown), with_first)
    slots.activate(first)
    assert torch.equal(model(shown), with_first)


@pytest.mark.parametrize("kind", [MergedSlots, AdapterSlots])
def test_only_factors_can_differ_within_a_batch(kind: type[AdapterSlots]) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4)).eval()
    slots = kind(model)
    staged = [slots.stage(random_weights(model, seed, "0" * 64)) for seed in (1, 2)]
    if slots.mixes:
        slots.activate_rows(staged)
        return
    with pytest.raises(Exception, match="merged adapters cannot share a batch"):
        slots.activate_rows(staged)
    slots.activate_rows([staged[1], staged[1]])
