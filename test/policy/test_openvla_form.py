"""The same classes with two fused towers, registers, layer scale and a feature block: OpenVLA-7B's shape, small."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from vlaforget_ros.policy.config import PolicyConfig, VisionTowerConfig
from vlaforget_ros.policy.model import OpenVla
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.policy.prompt import build_tokenizer
from vlaforget_ros.policy.tiny import tiny_config


@pytest.fixture
def openvla() -> VlaPolicy:
    tokenizer = build_tokenizer(["open the faucet"], 64)
    base = tiny_config(tokenizer)
    dino = VisionTowerConfig(
        image_size=28, patch_size=14, dim=32, depth=3, heads=2, mlp_dim=64, registers=4, class_token=True,
        layer_scale=True, feature_block=-2, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225),
    )  # fmt: skip
    siglip = VisionTowerConfig(
        image_size=28, patch_size=14, dim=48, depth=4, heads=2, mlp_dim=64, feature_block=-2
    )
    config = PolicyConfig(
        **{**base.model_dump(), "featurizer": dino, "fused_featurizer": siglip, "name": "small"}
    )
    torch.manual_seed(0)
    return VlaPolicy(OpenVla(config).eval(), tokenizer, "")


def test_state_dict_has_upstreams_names(openvla: VlaPolicy) -> None:
    keys = set(openvla.model.state_dict())
    for key in (
        "vision_backbone.featurizer.cls_token",
        "vision_backbone.featurizer.reg_token",
        "vision_backbone.featurizer.pos_embed",
        "vision_backbone.featurizer.patch_embed.proj.weight",
        "vision_backbone.featurizer.blocks.0.attn.qkv.weight",
        "vision_backbone.featurizer.blocks.0.ls1.scale_factor",
        "vision_backbone.fused_featurizer.blocks.3.mlp.fc2.bias",
        "projector.fc3.bias",
        "language_model.model.layers.0.self_attn.q_proj.weight",
        "language_model.lm_head.weight",
    ):
        assert key in keys
    assert not any("fused_featurizer.cls_token" in key or "stem.0" in key for key in keys)


def test_each_tower_gets_its_own_channels_and_widths_concatenate(openvla: VlaPolicy) -> None:
    visual, projected = openvla.features(torch.randn(2, 6, 28, 28))
    assert visual.shape == (2, 4, 80)
    assert projected.shape == (2, 4, 128)
    pixels = torch.randn(1, 6, 28, 28)
    other = pixels.clone()
    other[:, 3:] += 1.0
    before, after = openvla.features(pixels)[0], openvla.features(other)[0]
    assert torch.equal(before[..., :32], after[..., :32])
    assert not torch.equal(before[..., 32:], after[..., 32:])


def test_blocks_behind_the_feature_output_are_not_edited_and_not_run(openvla: VlaPolicy) -> None:
    names = [layer.name for layer in openvla.components()["visual"]]
    assert names == [
        *(f"vision_backbone.featurizer.blocks.{i}" for i in range(2)),
        *(f"vision_backbone.fused_featurizer.blocks.{i}" for i in range(3)),
    ]
    pixels = torch.randn(1, 6, 28, 28)
    before = openvla.features(pixels)[0]
    with torch.no_grad():
        openvla.model.vision_backbone.featurizer.blocks[2].mlp.fc1.weight.fill_(float("nan"))
    assert torch.equal(before, openvla.features(pixels)[0])


def test_acts_on_a_camera_image_of_another_size(openvla: VlaPolicy) -> None:
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    assert openvla.act(image, "open the faucet").action.shape == (4,)


def test_several_data_sets_need_a_key(openvla: VlaPolicy) -> None:
    stats = openvla.config.norm_stats["vlaforget_cell"]
    config = openvla.config.model_copy(update={"norm_stats": {"a": stats, "b": stats}})
    model = openvla.model
    model.config = config
    with pytest.raises(Exception, match="unnorm_key"):
        VlaPolicy(model, openvla.tokenizer, "")
    assert VlaPolicy(model, openvla.tokenizer, "", "b").codec.dims == 4


def test_impossible_configurations_are_refused() -> None:
    with pytest.raises(ValidationError, match="no multiple"):
        VisionTowerConfig(image_size=65)
    with pytest.raises(ValidationError, match="stem"):
        VisionTowerConfig(patch_size=14, stem_channels=(8, 8))
