"""Weights in 8 and 4 bits: how far they are from the stored ones, adapters beside them, and what is refused."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from released_parts import INSTRUCTION, write_released
from torch import nn

from vlaforget_ros.adapters.lora import LoraModule, LoraWeights
from vlaforget_ros.errors import ErrorCode, PolicyError
from vlaforget_ros.paths import models_directory
from vlaforget_ros.policy.merged import slots_for
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.policy.slots import AdapterSlots
from vlaforget_ros.policy.weight_only import WEIGHTS, Weights, bytes_of, is_rounded

ROUNDED: tuple[Weights, ...] = ("int8", "nf4")
PI0 = Path(__file__).parents[1] / "data" / "pi0_fast" / "one"


def openvla(folder: Path) -> Path:
    write_released(folder / "released")
    return folder / "released"


FORMS: dict[str, Callable[[Path], Path]] = {
    "tiny": lambda _: models_directory() / "tiny",
    "openvla": openvla,
    "pi0_fast": lambda _: PI0,
}


def linear(model: nn.Module) -> dict[str, nn.Linear]:
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}


@torch.inference_mode()
def seen(layer: nn.Linear) -> torch.Tensor:
    """(in, out) the weight that a layer computes with, asked for with one number at a time."""
    return layer(torch.eye(layer.in_features)) - (0.0 if layer.bias is None else layer.bias)


@pytest.mark.parametrize(
    ("form", "weights"), [("tiny", "int8"), ("openvla", "int8"), ("pi0_fast", "int8"), ("tiny", "nf4")]
)
def test_blocks_of_the_language_model_are_rounded_and_nothing_else(
    tmp_path: Path, form: str, weights: Weights
) -> None:
    checkpoint = FORMS[form](tmp_path)
    stored, rounded = VlaPolicy.load(checkpoint), VlaPolicy.load(checkpoint, weights=weights)
    assert (is_rounded(stored.model), is_rounded(rounded.model)) == (False, True)
    assert bytes_of(stored.model) == sum(parameter.nbytes for parameter in stored.model.parameters())
    own, theirs = linear(stored.model), linear(rounded.model)
    assert own.keys() == theirs.keys()
    touched = {name for name in own if type(own[name]) is not type(theirs[name])}
    assert touched == {name for name in own if name.startswith("language_model.model.layers.")}
    saved = 0.0
    for name in own:
        if name not in touched:
            assert torch.equal(own[name].weight, theirs[name].weight)
            continue
        weight, found = own[name].weight.detach().T, seen(theirs[name])
        # 127 steps for each row; the widest gap of the 16 levels, between -1 and -0.696 of a block's largest.
        limit = weight.abs().amax(dim=0) / 254 if weights == "int8" else weight.abs().max() * 0.304 / 2
        # Scales are stored in half precision, or rounded themselves.
        assert ((found - weight).abs() <= limit * 1.05 + 2e-4).all(), name
        assert not torch.equal(found, weight)
        saved += weight.nbytes * (0.75 if weights == "int8" else 0.85)
    assert bytes_of(rounded.model) < bytes_of(stored.model) - 0.95 * saved


@pytest.mark.parametrize("weights", ROUNDED)
def test_an_adapter_stands_beside_rounded_weights_and_leaves_them(weights: Weights) -> None:
    policy = VlaPolicy.load(models_directory() / "tiny", weights=weights)
    name = "language_model.model.layers.1.mlp.up_proj"
    layer = policy.model.get_submodule(name)
    torch.manual_seed(0)
    inputs, a = torch.randn(3, layer.in_features), torch.randn(2, layer.in_features)
    b = torch.randn(layer.out_features, 2)
    slots = AdapterSlots(policy.model)
    with torch.inference_mode():
        before = layer(inputs)
        slots.activate(slots.stage(LoraWeights({name: LoraModule(a, b, alpha=4.0)})))
        torch.testing.assert_close(layer(inputs), before + 2.0 * inputs @ a.T @ b.T)
        slots.activate(None)
        assert torch.equal(layer(inputs), before)
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    one, other = (policy.act(image, INSTRUCTION) for _ in range(2))
    assert one.fault == 0
    assert one.tokens == other.tokens


def test_rounded_weights_are_not_merged_into(tmp_path: Path) -> None:
    policy = VlaPolicy.load(openvla(tmp_path), weights="int8")
    with pytest.raises(PolicyError, match="merge_adapters") as caught:
        slots_for(policy.model, merge=True)
    assert caught.value.code == ErrorCode.POLICY_BAD_PARAMETER
    assert not isinstance(slots_for(policy.model, merge=False)._active, nn.Module)


def test_layers_that_do_not_fit_into_blocks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="nf4 for a layer with 32 inputs") as caught:
        VlaPolicy.load(openvla(tmp_path), weights="nf4")
    assert caught.value.code == ErrorCode.POLICY_BAD_PARAMETER


def test_other_words_and_a_missing_library_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = openvla(tmp_path)
    with pytest.raises(PolicyError, match="did you mean int8"):
        VlaPolicy.load(folder, weights="int9")  # type: ignore[arg-type]

    def absent(name: str) -> None:
        raise ImportError(f"no module {name}")

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(PolicyError, match="pip install bitsandbytes") as caught:
        VlaPolicy.load(folder, weights="nf4")
    assert caught.value.code == ErrorCode.POLICY_BAD_PARAMETER
    assert not is_rounded(VlaPolicy.load(folder, weights=WEIGHTS[0]).model)
