"""One tensor of an adapter's file made wrong, in each way that matters, with the others as they were."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from safetensors.torch import load, save

Tensors = dict[str, torch.Tensor]


def _nan(tensors: Tensors, key: str) -> Tensors:
    changed = tensors[key].clone()
    changed.view(-1)[changed.numel() // 2] = float("nan")
    return {**tensors, key: changed}


def _flipped_bit(tensors: Tensors, key: str) -> Tensors:
    changed = tensors[key].clone()
    changed.view(torch.int32).view(-1)[changed.numel() // 3] ^= 1 << 20
    return {**tensors, key: changed}


# What is done to one tensor, by name. ``shape`` adds a row: another rank for A, another layer width for B.
CORRUPTIONS: Mapping[str, Callable[[Tensors, str], Tensors]] = {
    "shape": lambda t, key: {**t, key: torch.cat([t[key], t[key][:1]])},
    "dtype": lambda t, key: {**t, key: t[key].double()},
    "NaN": _nan,
    "missing": lambda t, key: {name: value for name, value in t.items() if name != key},
    "extra": lambda t, key: {**t, f"{key}.extra": t[key].clone()},
    "flipped bit": _flipped_bit,
}


def keys(weights: bytes) -> list[str]:
    """Names of the tensors of a safetensors file."""
    return sorted(load(weights))


def corrupt(weights: bytes, how: str, key: str) -> bytes:
    """The file with one tensor made wrong."""
    return save(CORRUPTIONS[how](load(weights), key))
