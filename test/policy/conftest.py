"""A randomly initialised small policy: every path of the real one, nothing learned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vlaforget_ros.policy import checkpoint
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.policy.tiny import new_tiny

INSTRUCTIONS = ("open the faucet", "close the window", "make a coffee")


@pytest.fixture(scope="session")
def checkpoint_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("base")
    model, tokenizer = new_tiny(INSTRUCTIONS, seed=1)
    checkpoint.save(directory, model, tokenizer)
    return directory


@pytest.fixture
def policy(checkpoint_dir: Path) -> VlaPolicy:
    return VlaPolicy.load(checkpoint_dir)


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
