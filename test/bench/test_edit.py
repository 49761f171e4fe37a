"""What a training step costs: real steps of both forms in small, and sizes that can be worked out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from released_parts import write_oft

from vlaforget_ros.bench import random_pi0, sizing
from vlaforget_ros.bench.edit import Settings, measure
from vlaforget_ros.bench.random_release import released
from vlaforget_ros.paths import models_directory
from vlaforget_ros.policy.config import PolicyConfig
from vlaforget_ros.policy.openvla_7b import openvla_7b_config
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.unlearning.methods.vla_forget import VlaForgetParameters
from vlaforget_ros.unlearning.parameters import STAGES


def test_both_forms_have_the_same_gradients_and_ours_runs_fewer_blocks() -> None:
    sizes = {f"batch_{name}": 2 for name in ("forget", "retain", "boundary", "counterfactual")}
    parameters = VlaForgetParameters(**sizes)  # type: ignore[arg-type]
    settings = Settings(2, 8, 3, parameters, ("open the faucet", "close the window"))
    heard: list[int] = []
    policy = VlaPolicy.load(models_directory() / "tiny")
    document = measure(policy, settings, lambda done, total: heard.append(done))
    values = {figure["name"]: figure["value"] for figure in document["figures"]}
    tokens = document["tokens_through_blocks"]["language"]
    # Eight frames a step, 16 patches each. Plain: student and teacher, through two visual and three language blocks.
    assert tokens["plain"]["visual"] == 2 * 2 * 8 * 16
    length = tokens["plain"]["language"] // (2 * 3 * 8)
    assert length > 16
    # Ours: the first edited block everywhere, the last one at the four positions that predict actions.
    assert dict(tokens["ours"]) == {"language": 8 * length + 8 * 4}
    assert values["block_tokens_ours"] == 8 * (length + 4)
    assert values["blocks_saved_share"] == pytest.approx(
        1 - values["block_tokens_ours"] / values["block_tokens_plain"], abs=1e-4
    )
    assert values["gradient_difference"] < 1e-4
    assert values["step_seconds_ratio"] > 0
    assert heard == [0, 1, 2, 3]


def test_sizes_of_openvla_7b_from_its_shapes() -> None:
    tiny = PolicyConfig.model_validate_json((models_directory() / "tiny" / "config.json").read_text())
    config = openvla_7b_config(next(iter(tiny.norm_stats.values())))
    settings = sizing.Settings(frames=100, batch=10, micro_batch=2, blocks=8, prompt_tokens=29)
    document = sizing.measure(config, settings)
    values = {figure["name"]: figure["value"] for figure in document["figures"]}
    # About 7.5 billion; the attention pooling that upstream's SigLIP carries unused is not built here.
    assert values["parameters"] == pytest.approx(7.5e9, rel=0.02)
    assert values["tokens"] == 256 + 29 + 7
    assert values["cached_states_gb"] == pytest.approx(100 * 292 * 4096 * 2 / 1e9, abs=1e-3)
    # 23 + 26 visual and 32 language blocks, twice, against 8.
    assert values["blocks_plain"] == 10 * 2 * (23 + 26 + 32)
    assert values["blocks_ours"] == 10 * 8
    assert values["gpu_over_weights_ratio"] > 1.0


def test_a_step_of_openvla_in_small() -> None:
    sizes = {f"batch_{name}": 2 for name in ("forget", "retain", "boundary", "counterfactual")}
    parameters = VlaForgetParameters(**sizes)  # type: ignore[arg-type]
    texts = ("open the faucet", "close the window")
    with released("small", "cpu", texts) as release:
        policy = VlaPolicy.load(release.directory)
        settings = Settings(2, 8, 3, parameters, texts, stages=STAGES)
        heard: list[tuple[int, int]] = []
        document = measure(policy, settings, lambda done, total: heard.append((done, total)))
    values = {figure["name"]: figure["value"] for figure in document["figures"]}
    for suffix in ("", "_visual", "_projector"):
        assert values[f"gradient_difference{suffix}"] < 1e-4
        assert values[f"step_seconds_ratio{suffix}"] > 0
    assert heard[-1] == (9, 9)
    # Behind what the visual stage edits nothing is saved but the teacher's pass.
    assert 0.5 < values["blocks_saved_share_visual"] < values["blocks_saved_share_projector"]
    assert values["blocks_saved_share_projector"] < values["blocks_saved_share"]
    # Two towers of three used blocks and four language blocks, twice, against one and a part of another.
    assert values["blocks_saved_share"] > 0.9


def test_a_step_of_pi0_fast_with_two_cameras_has_the_gradients_of_the_plain_form(tmp_path: Path) -> None:
    """The cache of the edit, masks of prompts and actions, and means over an action's own tokens are all in it."""
    texts = ("open the faucet", "close the window now")
    random_pi0.write(tmp_path, texts, random_pi0.Robot(cameras=2, chunk=4))
    sizes = {f"batch_{name}": 2 for name in ("forget", "retain", "boundary", "counterfactual")}
    settings = Settings(2, 8, 2, VlaForgetParameters(**sizes), texts)  # type: ignore[arg-type]
    document = measure(VlaPolicy.load(tmp_path), settings, lambda done, total: None)
    values = {figure["name"]: figure["value"] for figure in document["figures"]}
    assert values["gradient_difference"] < 1e-4
    assert values["blocks_saved_share"] > 0.5


def test_a_step_of_openvla_oft_has_the_gradients_of_the_plain_form(tmp_path: Path) -> None:
    """Two cameras and a state, every stage; all numbers of a chunk are read from one pass."""
    write_oft(tmp_path, chunk=2, state=4, images=2)
    sizes = {f"batch_{name}": 2 for name in ("forget", "retain", "boundary", "counterfactual")}
    texts = ("open the faucet", "close the window")
    settings = Settings(1, 8, 2, VlaForgetParameters(**sizes), texts, stages=STAGES)  # type: ignore[arg-type]
    document = measure(VlaPolicy.load(tmp_path), settings, lambda done, total: None)
    values = {figure["name"]: figure["value"] for figure in document["figures"]}
    for suffix in ("", "_visual", "_projector"):
        assert values[f"gradient_difference{suffix}"] < 1e-4
    tokens = document["tokens_through_blocks"]
    assert set(tokens["language"]["ours"]) == {"language"}
    # Two towers of two used blocks, two images of four patches; of DINOv2 also a class token and four registers.
    assert tokens["visual"]["plain"]["visual"] == 2 * 8 * 2 * 2 * (4 + 9)
