"""What differs between two adapters, on a case worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from vlaforget_ros.adapters import AdapterStore, LoraModule, LoraWeights
from vlaforget_ros.adapters.difference import LayerDifference, difference, norm_of_difference

MakeWeights = Callable[..., LoraWeights]


def by_hand(factor: float, alpha: float) -> dict[str, LoraModule]:
    """A delta of [[3, 4], [0, 0]] times ``factor``, of norm 5 times that: A = (3, 4), B = (1, 0), alpha / rank."""
    a, b = torch.tensor([[3.0, 4.0]]), torch.tensor([[factor / alpha], [0.0]])
    return {"projector.fc1": LoraModule(a, b, alpha)}


def test_fields_and_norms_of_a_case_worked_out_by_hand(store: AdapterStore, base_digest: str) -> None:
    lone = LoraModule(torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0], [0.0]]), 1.0)
    first = LoraWeights(by_hand(1, alpha=1.0), base_digest)
    second = LoraWeights({**by_hand(4, alpha=2.0), "projector.fc2": lone}, base_digest)
    left = store.add_weights(first, {"name": "a", "method": "npo", "metrics": {"fc": 90.0}}).digest
    right = store.add_weights(
        second, {"name": "b", "method": "npo", "metrics": {"fc": 97.5}, "parent_digest": left}
    ).digest
    store.attach(right, "attacks", {"gates": []})

    found = difference(store, left, right)

    assert (found.left, found.right) == (left, right)
    # (4 - 1) * 5
    assert found.layers[0].difference == pytest.approx(15.0, rel=1e-6)
    assert (found.layers[0].left, found.layers[0].right) == (pytest.approx(5.0), pytest.approx(20.0))
    assert found.layers[1] == LayerDifference("projector.fc2", None, pytest.approx(2.0), None)
    assert set(found.fields) == {
        "created",
        "core.name",
        "core.metrics.fc",
        "core.modules",
        "core.parent_digest",
        "core.files.adapter_config.json.bytes",
        "core.files.adapter_config.json.sha256",
        "core.files.adapter_model.safetensors.bytes",
        "core.files.adapter_model.safetensors.sha256",
        "evidence.attacks",
    }
    assert found.fields["core.metrics.fc"] == (90.0, 97.5)
    assert found.fields["evidence.attacks"] == (None, {"gates": []})


def test_an_adapter_does_not_differ_from_itself(store: AdapterStore, make_weights: MakeWeights) -> None:
    digest = store.add_weights(make_weights(), {"name": "a", "method": "npo"}).digest

    found = difference(store, digest, digest)

    assert found.fields == {}
    assert [layer.difference for layer in found.layers] == [0.0] * 3


def test_the_norm_is_that_of_the_dense_deltas_for_any_ranks(make_weights: MakeWeights) -> None:
    left, right = make_weights(1, rank=3, alpha=5.0).modules, make_weights(2, rank=7, alpha=2.0).modules
    for name in left:
        dense = torch.linalg.matrix_norm(left[name].delta().double() - right[name].delta().double())
        assert norm_of_difference(left[name], right[name]) == pytest.approx(float(dense), rel=1e-5)


def test_the_same_delta_in_other_factors_is_no_difference(make_weights: MakeWeights) -> None:
    """The sign of both factors flipped, and a rank of nothing added: other bytes, the same delta."""
    module = make_weights().modules["projector.fc1"]
    other = LoraModule(
        torch.cat([-module.a, torch.ones(1, 8)]),
        torch.cat([-module.b * 5 / 4, torch.zeros(24, 1)], dim=1),
        module.alpha,
    )
    apart = norm_of_difference(module, other)

    assert apart is not None
    assert apart < 1e-5 * float(torch.linalg.matrix_norm(module.delta()))


def test_layers_of_other_shape_have_no_difference() -> None:
    narrow, wide = (LoraModule(torch.ones(1, n), torch.ones(2, 1), 1.0) for n in (2, 3))
    assert norm_of_difference(narrow, wide) is None
    assert norm_of_difference(narrow, LoraModule(-narrow.a, narrow.b, 1.0)) == pytest.approx(2 * math.sqrt(4))
