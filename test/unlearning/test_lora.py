"""Factors come and go without a trace, and merge into what they compute attached."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from vlaforget_ros.adapters.lora import LoraWeights
from vlaforget_ros.adapters.peft_format import read_peft, write_peft
from vlaforget_ros.errors import AdapterError
from vlaforget_ros.unlearning.lora import EditAdapter, fold


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 5))


X = torch.linspace(-1, 1, 12).reshape(2, 6)


def randomise(adapter: EditAdapter, modules: list[str]) -> None:
    for parameter in adapter.train(modules):
        nn.init.normal_(parameter, generator=torch.Generator().manual_seed(parameter.numel()))


def test_fresh_factors_change_nothing_and_only_they_are_trainable(model: nn.Module) -> None:
    before = model(X)
    adapter = EditAdapter(model, rank=2, alpha=4)
    adapter.add(["0", "2"], seed=0)
    assert torch.equal(model(X), before)
    factors = adapter.train(["2"])
    assert {id(p) for p in model.parameters() if p.requires_grad} == {id(p) for p in factors}
    assert [tuple(p.shape) for p in factors] == [(2, 8), (5, 2)]


def test_removed_factors_leave_the_model_bit_for_bit(model: nn.Module) -> None:
    before, keys = model(X), list(model.state_dict())
    adapter = EditAdapter(model, 2, 4)
    adapter.add(["0", "2"], seed=0)
    randomise(adapter, ["0", "2"])
    assert not torch.equal(model(X), before)
    adapter.remove(["0", "2"])
    assert torch.equal(model(X), before)
    assert list(model.state_dict()) == keys
    assert adapter.modules == ()


def test_the_same_seed_gives_the_same_factors(model: nn.Module) -> None:
    adapter = EditAdapter(model, 2, 4)
    adapter.add(["0"], seed=5)
    first = adapter.tensors()["0"][0]
    adapter.remove(["0"])
    adapter.add(["0"], seed=5)
    assert torch.equal(adapter.tensors()["0"][0], first)
    adapter.remove(["0"])
    adapter.add(["0"], seed=6)
    assert not torch.equal(adapter.tensors()["0"][0], first)


def test_adding_in_two_steps_keeps_the_earlier_factors(model: nn.Module) -> None:
    adapter = EditAdapter(model, 2, 4)
    adapter.add(["0"], seed=0)
    randomise(adapter, ["0"])
    before = adapter.tensors()["0"]
    adapter.add(["2"], seed=1)
    after = adapter.tensors()["0"]
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])


def test_load_restores_a_snapshot_and_takes_off_what_is_not_in_it(model: nn.Module) -> None:
    adapter = EditAdapter(model, 2, 4)
    adapter.add(["0"], seed=0)
    randomise(adapter, ["0"])
    snapshot, expected = adapter.tensors(), model(X)
    adapter.add(["2"], seed=1)
    randomise(adapter, ["0", "2"])
    for parameter in adapter.train(["0"]):
        nn.init.ones_(parameter)
    adapter.load(snapshot)
    assert adapter.modules == ("0",)
    assert torch.equal(model(X), expected)


def test_merged_computes_the_same_and_puts_the_weights_back(model: nn.Module) -> None:
    plain = model(X)
    adapter = EditAdapter(model, 2, 4)
    adapter.add(["0", "2"], seed=0)
    randomise(adapter, ["0", "2"])
    attached = model(X)
    with adapter.merged():
        assert adapter.modules == ()
        torch.testing.assert_close(model(X), attached)
    assert torch.equal(model(X), attached)
    adapter.remove(["0", "2"])
    assert torch.equal(model(X), plain)


def test_folding_an_exported_adapter_gives_the_attached_outputs(model: nn.Module, tmp_path: Path) -> None:
    adapter = EditAdapter(model, 2, 4)
    adapter.add(["0", "2"], seed=0)
    randomise(adapter, ["0", "2"])
    attached = model(X)
    write_peft(adapter.weights("a" * 64), tmp_path)
    adapter.remove(["0", "2"])
    fold(model, read_peft(tmp_path))
    torch.testing.assert_close(model(X), attached)


def test_folding_an_adapter_of_another_network_is_refused(model: nn.Module) -> None:
    other = LoraWeights.from_tensors({"0": (torch.ones(2, 7), torch.ones(8, 2))}, alpha=4)
    before = model(X)
    with pytest.raises(AdapterError, match="104"):
        fold(model, other)
    assert torch.equal(model(X), before)
