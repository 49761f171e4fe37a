"""What differs between two adapters: what their manifests say, and how far apart their deltas are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from vlaforget_ros.adapters.lora import LoraModule
from vlaforget_ros.adapters.manifest import Manifest
from vlaforget_ros.adapters.store import AdapterStore


@dataclass(frozen=True)
class LayerDifference:
    """One layer that at least one of two adapters changes. Norms are Frobenius norms of (out, in) deltas.

    Args:
        layer: its path in the model.
        left: norm of the first adapter's delta, None where it does not change the layer.
        right: norm of the second one's.
        difference: norm of the difference of both, None where only one changes the layer, or where their shapes
            differ.
    """

    layer: str
    left: float | None
    right: float | None
    difference: float | None


@dataclass(frozen=True)
class Difference:
    """What differs between two adapters.

    Args:
        left: digest of the first.
        right: digest of the second.
        fields: what of the manifests differs: path of the field -> (first, second), None where it is absent.
        layers: all layers that either changes, by name.
    """

    left: str
    right: str
    fields: dict[str, tuple[Any, Any]]
    layers: tuple[LayerDifference, ...]


def difference(store: AdapterStore, left: str, right: str) -> Difference:
    """Compare two adapters of a store.

    Args:
        store: where they are.
        left: full digest.
        right: full digest.

    Raises:
        AdapterError: 100 unknown, 103-107 as in :meth:`AdapterStore.load`.
    """
    manifests = store.manifest(left), store.manifest(right)
    weights = store.load(left), store.load(right)
    layers = sorted({*weights[0].modules, *weights[1].modules})
    return Difference(
        left,
        right,
        differing_fields(*manifests),
        tuple(_layer(name, weights[0].modules.get(name), weights[1].modules.get(name)) for name in layers),
    )


def differing_fields(left: Manifest, right: Manifest) -> dict[str, tuple[Any, Any]]:
    """Fields of two manifests that differ, nested ones with dots; the digests, which name them, are left out."""
    first, second = (
        _flat(manifest.model_dump(mode="json", exclude={"digest": True})) for manifest in (left, right)
    )
    return {
        path: (first.get(path), second.get(path))
        for path in sorted({*first, *second})
        if first.get(path) != second.get(path)
    }


def norm_of_difference(left: LoraModule, right: LoraModule) -> float | None:
    """||delta_left - delta_right||_F without forming a delta; None where their shapes differ.

    The difference is one product B A of the joined factors. With B = Q_b R_b and A^T = Q_a R_a its norm is that of the
    small R_b R_a^T.
    """
    if left.out_in != right.out_in:
        return None
    if left.alpha == right.alpha and torch.equal(left.a, right.a) and torch.equal(left.b, right.b):
        return 0.0
    a = torch.cat([left.a.double(), right.a.double()])
    b = torch.cat([left.scale * left.b.double(), -right.scale * right.b.double()], dim=1)
    return _norm(a, b)


def _norm(a: torch.Tensor, b: torch.Tensor) -> float:
    _, r_b = torch.linalg.qr(b)
    _, r_a = torch.linalg.qr(a.T)
    return float(torch.linalg.matrix_norm(r_b @ r_a.T))


def _layer(name: str, left: LoraModule | None, right: LoraModule | None) -> LayerDifference:
    norms = [
        None if module is None else _norm(module.a.double(), module.scale * module.b.double())
        for module in (left, right)
    ]
    apart = None if left is None or right is None else norm_of_difference(left, right)
    return LayerDifference(name, norms[0], norms[1], apart)


def _flat(values: dict[str, Any], before: str = "") -> dict[str, Any]:
    """{"core": {"rank": 4}} -> {"core.rank": 4}; lists, and documents of evidence, stay whole."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        path = f"{before}{name}"
        if isinstance(value, dict) and not before.startswith("evidence."):
            found.update(_flat(value, f"{path}."))
        else:
            found[path] = value
    return found
