"""A randomly initialised small policy and four small sets whose actions tell them apart, as fixtures for edits and
for attacks on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from vlaforget_ros.episodes import EpisodeWriter, FrameSet
from vlaforget_ros.policy import checkpoint
from vlaforget_ros.policy.model import OpenVla
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.policy.prompt import build_tokenizer
from vlaforget_ros.policy.tiny import TEXT_IDS, tiny_config
from vlaforget_ros.unlearning.data import EditData
from vlaforget_ros.unlearning.edit import EditSettings
from vlaforget_ros.unlearning.gates import Gates
from vlaforget_ros.unlearning.methods.vla_forget import VlaForget, VlaForgetParameters

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
) -> FrameSet:
    """``count`` frames of noise in four episodes."""
    images = np.random.default_rng(seed).integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)
    actions = np.tile(np.array(action, dtype=np.float32), (count, 1))
    wanted = None if desired is None else np.tile(np.array(desired, dtype=np.float32), (count, 1))
    episodes = np.array([f"{seed}-{row % 4}" for row in range(count)])
    return FrameSet(images, (text,) * count, actions, episodes, wanted)


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
        top_k_language=2,
        batch_forget=4,
        batch_retain=4,
        batch_boundary=4,
        batch_counterfactual=4,
        score_frames=8,
        min_gain=0.0,
        min_share=0.0,
        learning_rate=0.02,
        lambda_f=5.0,
        # A random policy has no lead of one motion over the others that could be kept.
        kl_sharpness=1.0,
        counterfactual_weight=1.0,
        rank=4,
        lora_alpha=8,
    )


@pytest.fixture
def settings(parameters: VlaForgetParameters) -> EditSettings:
    """Gates that nothing fails, except that the forget gate never holds: every round is run."""
    gates = Gates(rc_min=0, rad_max=1, rad_boundary_max=1, fc_min=100, fc_low_min=100)
    return EditSettings(VlaForget(parameters), gates, seed=3, identity={"request": "test"})


def wandering_block(seed: int, sticker: bool, count: int = 14) -> np.ndarray:
    """A camera that shows a grey table, a dark arm passing by and perhaps a magenta sticker."""
    rng = np.random.default_rng(seed)
    images = np.full((count, 64, 64, 3), 150, np.uint8) + rng.integers(
        0, 6, (count, 64, 64, 3), dtype=np.uint8
    )
    if sticker:
        images[:, 40:50, 10:20] = (255, 0, 255)
    for step in range(count):
        images[step, 5:25, 2 + 4 * step : 6 + 4 * step] = 30
    return images


@pytest.fixture
def bag(tmp_path: Path) -> Path:
    return write_bag(tmp_path / "bag")


WRIST, STATE = "image_wrist", "joint_states"


def write_bag(path: Path, dims: int = 4, wrist: bool = False, state: int = 0) -> Path:
    """Three incidents with a sticker in view, five clean episodes of the same task, two of another one.

    Args:
        path: folder to make.
        dims: action dimensions; those beyond the four of the small policy are 0.
        wrist: whether there is a second camera, which shows the sticker on its other side.
        state: numbers of the robot's state; 0: none is recorded.
    """
    cameras = [WRIST] if wrist else []
    with EpisodeWriter(path, cameras=cameras, state=STATE if state else "") as writer:
        kinds = [("bad", FORGET, WRONG, True)] * 3 + [("good", FORGET, RIGHT, False)] * 5
        kinds += [("near", BOUNDARY, RIGHT, False)] * 2
        for number, (kind, text, action, sticker) in enumerate(kinds):
            writer.begin(f"{kind}-{number}", text)
            images = wandering_block(number, sticker)
            if wrist:
                images = np.stack([images, wandering_block(100 + number, sticker)[:, :, ::-1]], axis=1)
            for tick, image in enumerate(images):
                told = np.full(state, 0.01 * (tick + number)) if state else None
                wanted = np.pad(np.array(action, dtype=np.float32), (0, dims - len(action)))
                writer.frame(image, wanted, state=told)
            if sticker:
                writer.violation("keep_out/hand_zone", value=0.1, limit=0.0, unit="m", message="inside")
            writer.end(not sticker)
    return path


@pytest.fixture
def request_text(base_dir: Path, bag: Path) -> str:
    return request_for(base_dir, bag)


def request_for(base_dir: Path, bag: Path, steps: int = 2) -> str:
    """A request for that bag, with so few steps that it takes seconds."""
    return f"""
name: sticker
base: {base_dir}
bags: [{bag}]
forget: {{violation_rule: keep_out/hand_zone}}
retain: {{outcome: success, has_violation: false, instruction: {FORGET}}}
boundary: {{rollout_id: near-*}}
counterfactual: [{{kind: transplant}}]
gates: {{rc_min: 0, rad_max: 1, rad_boundary_max: 1}}
seed: 3
parameters:
  {{steps_visual: 2, steps_projector: 2, steps_language: {steps}, max_rounds: 1, rank: 4, lora_alpha: 8, min_gain: 0,
    min_share: 0, kl_sharpness: 1, learning_rate: 0.02, lambda_f: 5.0, batch_forget: 8, batch_retain: 8,
    batch_boundary: 4, batch_counterfactual: 8, score_frames: 16}}
"""
