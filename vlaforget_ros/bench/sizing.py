"""What an edit of a large policy needs in memory and block evaluations: computed from its shapes, not measured.

Weights are counted on a network without storage (PyTorch's meta device), activations as ``policy/footprint.py`` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from vlaforget_ros import figures
from vlaforget_ros.figures import Figure
from vlaforget_ros.policy.config import PolicyConfig
from vlaforget_ros.policy.footprint import block_bytes
from vlaforget_ros.policy.model import OpenVla

ACTION_TOKENS = 7
_HALF, _SINGLE = 2, 4


@dataclass(frozen=True)
class Settings:
    """The edit.

    Args:
        frames: frames of all sets together.
        batch: frames of a step, all sets together.
        micro_batch: frames of one forward and backward pass.
        blocks: language blocks that are edited, from the top.
        prompt_tokens: text tokens of a prompt.
        rank: of the adapter.
    """

    frames: int = 2000
    batch: int = 64
    micro_batch: int = 8
    blocks: int = 8
    prompt_tokens: int = 30
    rank: int = 16


def head_share(language: Mapping[str, Any]) -> float:
    """Share of the LM head in the weights of the language model that a decoded token reads, 0 to 1.

    The library's path computes the head for every word. The smaller the model, the more of a token that is, unless its
    vocabulary is smaller as well: figures of a small model speak for the large one only as far as this share is its.

    Args:
        language: fields of the language model's configuration; the table of words is looked up, not read.
    """
    width, heads = language["hidden_size"], language["num_attention_heads"]
    of_head = language.get("head_dim") or width // heads
    attention = 2 * width * of_head * (heads + language.get("num_key_value_heads", heads))
    blocks = language["num_hidden_layers"] * (attention + 3 * width * language["intermediate_size"])
    head: int = language["vocab_size"] * width
    return head / (head + blocks)


def measure(config: PolicyConfig, settings: Settings) -> dict[str, Any]:
    """Sizes of the language/action stage.

    Args:
        config: of the policy.
        settings: the edit.
    """
    with torch.device("meta"):
        model = OpenVla(config)
    weights = sum(parameter.numel() for parameter in model.parameters())
    language = config.language
    width, inner, depth = (language[k] for k in ("hidden_size", "intermediate_size", "num_hidden_layers"))
    patches = config.featurizer.patches
    tokens = patches + settings.prompt_tokens + ACTION_TOKENS
    visual = sum(tower.feature_block % tower.depth + 1 for tower in config.towers)
    edited = min(settings.blocks, depth)
    block = block_bytes(tokens, width, inner, _HALF)
    features = patches * (config.vision_dim + width) * _SINGLE
    lora = edited * settings.rank * (4 * 2 * width + 3 * (width + inner))
    memory = {
        "weights": weights * _HALF,
        "cached_states": settings.frames * tokens * width * _HALF,
        "reference_log_probs": settings.frames * ACTION_TOKENS * config.bins * _SINGLE,
        "reference_features": settings.frames * features,
        "activations": settings.micro_batch * edited * block,
        "activations_checkpointed": settings.micro_batch * (edited * tokens * width * _HALF + block),
        # Factors, gradients and Adam's two moments.
        "adapter_and_optimiser": 4 * lora * _SINGLE,
    }
    plain = settings.batch * (2 * (visual + depth))
    ours = settings.batch * edited
    total = sum(memory[k] for k in ("weights", "activations_checkpointed", "adapter_and_optimiser"))
    found = [
        Figure("parameters", weights, "count"),
        Figure("tokens", tokens, "count"),
        *(Figure(f"{name}_gb", round(size / 1e9, 3), "GB") for name, size in memory.items()),
        Figure("gpu_gb", round(total / 1e9, 3), "GB"),
        Figure("gpu_over_weights_ratio", round(total / memory["weights"], 3), "ratio"),
        Figure("blocks_plain", plain, "count"),
        Figure("blocks_ours", ours, "count"),
        Figure("blocks_saved_share", round(1 - ours / plain, 4), "ratio"),
    ]
    return figures.document("sizing", found, [], model=config.name, settings=vars(settings))
