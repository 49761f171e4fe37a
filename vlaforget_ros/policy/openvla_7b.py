"""The configuration of OpenVLA-7B, as released and with every part small.

Statistics of one action space are a placeholder.
"""

from __future__ import annotations

from vlaforget_ros.policy.config import ActionNormalisation, PolicyConfig, VisionTowerConfig


def openvla_7b_config(statistics: ActionNormalisation) -> PolicyConfig:
    """DINOv2-L and SigLIP-So400m at 224 px into Llama-2-7B (Kim et al. 2024, arXiv 2406.09246).

    Args:
        statistics: of the robot's actions.
    """
    dino = VisionTowerConfig(
        image_size=224,
        patch_size=14,
        dim=1024,
        depth=24,
        heads=16,
        mlp_dim=4096,
        registers=4,
        class_token=True,
        layer_scale=True,
        feature_block=-2,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )
    siglip = VisionTowerConfig(
        image_size=224, patch_size=14, dim=1152, depth=27, heads=16, mlp_dim=4304, feature_block=-2
    )
    return PolicyConfig(
        name="openvla_7b",
        featurizer=dino,
        fused_featurizer=siglip,
        language={
            "vocab_size": 32064,
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "max_position_embeddings": 2048,
            "pad_token_id": 32000,
        },
        action_vocab_end=32000,
        prompt_suffix_id=29871,
        norm_stats={"robot": statistics},
    )


def openvla_small_config(statistics: ActionNormalisation) -> PolicyConfig:
    """The same form with 22 million parameters: two towers, the same prompt and action tokens.

    Args:
        statistics: of the robot's actions.
    """
    full = openvla_7b_config(statistics)
    towers = {
        name: tower.model_copy(update={**sizes, "image_size": 112, "depth": 4})
        for name, tower, sizes in (
            ("featurizer", full.towers[0], {"dim": 128, "heads": 8, "mlp_dim": 512}),
            ("fused_featurizer", full.towers[1], {"dim": 144, "heads": 9, "mlp_dim": 540}),
        )
    }
    sizes = {
        "hidden_size": 256,
        "intermediate_size": 704,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
    }
    language = {**full.language, **sizes}
    return full.model_copy(update={"name": "openvla_small", **towers, "language": language})
