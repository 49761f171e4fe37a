"""A randomly initialised small policy and four small sets whose actions tell them apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from vlaforget_ros.policy import checkpoint
from vlaforget_ros.policy.model import OpenVla
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.policy.prompt import build_tokenizer
from vlaforget_ros.policy.tiny import TEXT_IDS, tiny_config
from vlaforget_ros.unlearning.data import EditData, Frames
from vlaforget_ros.unlearning.edit import EditSettings
from vlaforget_ros.unlearning.gates import Gates
from vlaforget_ros.unlearning.parameters import VlaForgetParameters

FORGET, RETAIN, BOUNDARY = "open the faucet", "close the window", "make a coffee now"
WRONG, RIGHT = (0.015, 0.0, -0.01, 0.0), (-0.015, 0.01, -0.01, 0.0)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def base_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("base")
    tokenizer = build_tokenizer((FORGET, RETAIN, BOUNDARY), TEXT_IDS)
    config = tiny_config(tokenizer)
    tower = {"stem_channels": (8, 8, 16), "dim": 32, "mlp_dim": 64}
    language = {"hidden_size": 32, "intermediate_size": 64, "initializer_range": 0.2}
    config = config.model_copy(
        update={
            "featurizer": config.featurizer.model_copy(update=tower),
            "language": {**config.language, **language},
        }
    )
    torch.manual_seed(1)
    checkpoint.save(directory, OpenVla(config), tokenizer)
    return directory


@pytest.fixture
def policy(base_dir: Path) -> VlaPolicy:
    return VlaPolicy.load(base_dir)


def _frames(
    text: str,
    action: tuple[float, ...],
    seed: int,
    desired: tuple[float, ...] | None = None,
    count: int = 12,
) -> Frames:
    """``count`` frames of noise in four episodes."""
    images = np.random.default_rng(seed).integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)
    actions = np.tile(np.array(action, dtype=np.float32), (count, 1))
    wanted = None if desired is None else np.tile(np.array(desired, dtype=np.float32), (count, 1))
    return Frames(images, (text,) * count, actions, np.arange(count, dtype=np.int64) % 4, wanted)


@pytest.fixture
def data() -> EditData:
    return EditData(
        forget=_frames(FORGET, WRONG, 1, RIGHT),
        retain=_frames(RETAIN, RIGHT, 2),
        boundary=_frames(BOUNDARY, RIGHT, 3),
        counterfactual=_frames(FORGET, RIGHT, 4),
    )


@pytest.fixture
def parameters() -> VlaForgetParameters:
    """A few steps of each stage, small batches."""
    return VlaForgetParameters(
        steps_visual=3,
        steps_projector=3,
        steps_language=4,
        max_rounds=2,
        batch_forget=4,
        batch_retain=4,
        batch_boundary=4,
        batch_counterfactual=4,
        score_frames=8,
        min_gain=0.0,
        learning_rate=0.02,
        lambda_f=5.0,
        rank=4,
        lora_alpha=8,
    )


@pytest.fixture
def settings(parameters: VlaForgetParameters) -> EditSettings:
    """Gates that nothing fails, except that the forget gate never holds: every round is run."""
    gates = Gates(rc_min=0, rad_max=1, rad_boundary_max=1, fc_min=100, fc_low_min=100)
    return EditSettings(parameters, gates, seed=3, identity={"request": "test"})
