"""Values of LoRA adapters: their arithmetic and the checks on them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from vlaforget_ros.adapters.lora import LoraModule, LoraWeights, combine, compressed
from vlaforget_ros.errors import AdapterError, ErrorCode


def test_the_delta_is_alpha_over_rank_times_b_a() -> None:
    module = LoraModule(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0], [4.0], [0.0]]), alpha=2.0)

    assert module.rank == 1
    assert module.out_in == (3, 2)
    assert module.bytes == 20
    assert torch.equal(module.delta(), torch.tensor([[6.0, 12.0], [8.0, 16.0], [0.0, 0.0]]))


def test_from_tensors_copies_so_that_training_on_does_not_change_the_adapter() -> None:
    a, b = torch.ones(1, 2, requires_grad=True), torch.ones(3, 1)

    weights = LoraWeights.from_tensors({"x": (a, b)}, alpha=1.0)
    with torch.no_grad():
        a.mul_(5)
        b.mul_(5)

    assert weights.modules["x"].delta().max() == 1.0
    assert not weights.modules["x"].a.requires_grad


def test_combining_adds_deltas_and_keeps_lone_layers(
    make_weights: Callable[..., LoraWeights],
) -> None:
    first, second = make_weights(1, rank=2, alpha=3.0), make_weights(2, rank=5, alpha=1.0)
    alone = LoraWeights({"only": next(iter(first.modules.values()))}, first.base_digest)

    merged = combine([first, second, alone])

    assert merged.base_digest == first.base_digest
    assert merged.modules["projector.fc1"].rank == 7
    for name in first.modules:
        expected = first.modules[name].delta() + second.modules[name].delta()
        torch.testing.assert_close(merged.modules[name].delta(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(merged.modules["only"].delta(), alone.modules["only"].delta())


def test_combining_refuses_layers_of_different_shape() -> None:
    left = LoraWeights({"x": LoraModule(torch.ones(1, 2), torch.ones(3, 1), 1.0)})
    right = LoraWeights({"x": LoraModule(torch.ones(1, 4), torch.ones(3, 1), 1.0)})

    with pytest.raises(AdapterError) as caught:
        combine([left, right])

    assert caught.value.code == ErrorCode.ADAPTER_BAD_SHAPE


def difference(left: LoraModule, right: LoraModule) -> float:
    """Relative Frobenius norm of the difference of two deltas."""
    exact = [module.scale * (module.b.double() @ module.a.double()) for module in (left, right)]
    return float((exact[0] - exact[1]).norm() / exact[0].norm())


def test_a_chain_of_edits_is_compressed_to_what_the_layers_can_hold_and_stays_the_same_delta(
    make_weights: Callable[..., LoraWeights],
) -> None:
    chain = combine([make_weights(seed, rank=5, alpha=3.0) for seed in range(6)])
    assert {module.rank for module in chain.modules.values()} == {30}

    small = compressed(chain)

    assert {name: module.rank for name, module in small.modules.items()} == {
        "projector.fc1": 8,
        "projector.fc2": 16,
        "language_model.model.layers.0.mlp.up_proj": 16,
    }
    assert small.base_digest == chain.base_digest
    for name, module in chain.modules.items():
        assert difference(module, small.modules[name]) < 1e-6


def test_a_delta_of_low_rank_is_found_and_one_that_needs_its_rank_keeps_it(
    make_weights: Callable[..., LoraWeights],
) -> None:
    once = make_weights(1, rank=3)
    twice = combine([once, once])

    assert compressed(twice).modules["projector.fc2"] is twice.modules["projector.fc2"]  # 6 is not too much
    for name, module in compressed(twice, most=4).modules.items():
        assert module.rank == 3
        assert difference(twice.modules[name], module) < 1e-6
    full = combine([make_weights(1, rank=3), make_weights(2, rank=3)])
    assert compressed(full, most=4).rank == 6


def test_a_delta_of_zero_is_compressed_to_one_of_rank_one() -> None:
    nothing = LoraWeights({"x": LoraModule(torch.zeros(3, 2), torch.zeros(4, 3), 1.0)})
    module = compressed(nothing).modules["x"]
    assert module.rank == 1
    assert not module.delta().any()


def test_a_large_layer_is_compressed_without_its_dense_delta(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(4, 3000, generator=generator), torch.randn(2000, 4, generator=generator)
    chain = LoraWeights({"x": LoraModule(torch.cat([a, a]), torch.cat([b, b], dim=1), 8.0)})
    sizes = []
    svd = torch.linalg.svd
    monkeypatch.setattr(
        torch.linalg, "svd", lambda matrix: (sizes.append(tuple(matrix.shape)), svd(matrix))[1]
    )
    assert compressed(chain, most=4).modules["x"].rank == 4
    assert sizes == [(8, 8)]


@pytest.mark.parametrize(
    ("a", "b", "alpha", "code"),
    [
        (torch.ones(2, 3), torch.ones(4, 1), 1.0, ErrorCode.ADAPTER_BAD_SHAPE),
        (torch.ones(2), torch.ones(4, 2), 1.0, ErrorCode.ADAPTER_BAD_SHAPE),
        (torch.ones(2, 3, dtype=torch.int8), torch.ones(4, 2), 1.0, ErrorCode.ADAPTER_BAD_SHAPE),
        (torch.full((2, 3), float("nan")), torch.ones(4, 2), 1.0, ErrorCode.ADAPTER_NON_FINITE),
        (torch.ones(2, 3), torch.full((4, 2), float("-inf")), 1.0, ErrorCode.ADAPTER_NON_FINITE),
        (torch.ones(2, 3), torch.ones(4, 2), float("nan"), ErrorCode.ADAPTER_NON_FINITE),
        (torch.ones(9, 3), torch.ones(4, 9), 1.0, ErrorCode.ADAPTER_OVER_RANK_LIMIT),
    ],
)
def test_bad_factors_are_refused(a: torch.Tensor, b: torch.Tensor, alpha: float, code: ErrorCode) -> None:
    with pytest.raises(AdapterError) as caught:
        LoraWeights({"x": LoraModule(a, b, alpha)}).check(rank_limit=8)

    assert caught.value.code == code
    assert "x" in str(caught.value)


def test_an_adapter_without_layers_is_refused() -> None:
    with pytest.raises(AdapterError) as caught:
        LoraWeights({}).check()

    assert caught.value.code == ErrorCode.ADAPTER_BAD_SHAPE


def test_a_layer_the_model_does_not_have_is_named_with_the_nearest_one(
    make_weights: Callable[..., LoraWeights],
) -> None:
    shapes = {name: module.out_in for name, module in make_weights().modules.items()}
    make_weights().check_fits(shapes)
    del shapes["projector.fc2"]

    with pytest.raises(AdapterError) as caught:
        make_weights().check_fits(shapes)

    assert caught.value.value == "projector.fc2"
    assert "projector.fc1" in caught.value.remedy
