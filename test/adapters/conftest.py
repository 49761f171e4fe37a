"""Small random adapters for a model that is never built."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from signed_parts import Signers

from vlaforget_ros.adapters import AdapterStore, LoraWeights

# fsspec speaks HTTP through aiohttp, which is an extra of ours: tested where it is installed.
collect_ignore = [] if find_spec("aiohttp") else ["test_exchange_http.py"]
BASE = "ba5e" * 16
SHAPES = {
    "projector.fc1": (24, 8),
    "projector.fc2": (16, 24),
    "language_model.model.layers.0.mlp.up_proj": (32, 16),
}

MakeWeights = Callable[..., LoraWeights]


@pytest.fixture
def base_digest() -> str:
    return BASE


@pytest.fixture
def make_weights() -> MakeWeights:
    def make(seed: int = 0, rank: int = 4, alpha: float = 8.0, base: str = BASE) -> LoraWeights:
        generator = torch.Generator().manual_seed(seed)
        tensors = {
            name: (
                torch.randn(rank, inputs, generator=generator),
                torch.randn(outputs, rank, generator=generator),
            )
            for name, (outputs, inputs) in SHAPES.items()
        }
        return LoraWeights.from_tensors(tensors, alpha=alpha, base_digest=base)

    return make


@pytest.fixture
def clock() -> Callable[[], datetime]:
    """A clock that is one second later each time it is read."""
    times = iter(datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=s) for s in range(10_000))
    return lambda: next(times)


@pytest.fixture
def store(tmp_path: Path, clock: Callable[[], datetime]) -> AdapterStore:
    return AdapterStore(tmp_path / "store", rank_limit=32, now=clock)


@pytest.fixture
def signers(tmp_path: Path) -> Signers:
    """Real keys outside the store, and trust policies that name them."""
    return Signers(tmp_path)
