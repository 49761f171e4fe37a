"""The embedded policy ``tiny``: the OpenVLA architecture, small enough to train and edit on two CPU cores."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from vlaforget_ros.policy.config import ActionNormalisation, PolicyConfig, VisionTowerConfig
from vlaforget_ros.policy.model import OpenVla
from vlaforget_ros.policy.prompt import BOS, EOS, PAD, build_tokenizer, special_id

TEXT_IDS = 64
BINS = 256
DIM = 128
# The simulated cell moves the hand by at most 2 cm a control tick.
STEP_LIMIT_M = 0.02


def tiny_config(tokenizer: Tokenizer, data_set: str = "vlaforget_cell") -> PolicyConfig:
    """Configuration of ``tiny``: 64 px → convolutional stem → 16 tokens → 2 ViT blocks → 3 Llama layers.

    Actions are dx dy dz [m per control tick] and a gripper value that is passed on raw.
    """
    names = ("dx", "dy", "dz", "gripper")
    return PolicyConfig(
        name="tiny",
        featurizer=VisionTowerConfig(stem_channels=(32, 64, 96), dim=DIM, depth=2, heads=4, mlp_dim=4 * DIM),
        language={
            "vocab_size": TEXT_IDS + BINS,
            "hidden_size": DIM,
            "intermediate_size": 3 * DIM,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "max_position_embeddings": 128,
            "initializer_range": 1.0 / math.sqrt(DIM),
            "tie_word_embeddings": False,
            "pad_token_id": special_id(tokenizer, PAD),
            "bos_token_id": special_id(tokenizer, BOS),
            "eos_token_id": special_id(tokenizer, EOS),
        },
        bins=BINS,
        action_vocab_end=TEXT_IDS + BINS,
        norm_stats={
            data_set: ActionNormalisation(
                names=names,
                units=("m", "m", "m", "0..1"),
                q01=(-STEP_LIMIT_M, -STEP_LIMIT_M, -STEP_LIMIT_M, 0.0),
                q99=(STEP_LIMIT_M, STEP_LIMIT_M, STEP_LIMIT_M, 1.0),
                mask=(True, True, True, False),
                hold=(0.0, 0.0, 0.0, 0.0),
            )
        },
    )


def new_tiny(instructions: Iterable[str], seed: int) -> tuple[OpenVla, Tokenizer]:
    """A randomly initialised ``tiny`` that knows the words of ``instructions``.

    Position embeddings start as sines and cosines, and so, at a tenth of the size, do the action tokens: with the
    library's default initialisation this model does not learn within minutes.
    """
    tokenizer = build_tokenizer(instructions, TEXT_IDS)
    return random_weights(tiny_config(tokenizer), seed), tokenizer


def random_weights(config: PolicyConfig, seed: int) -> OpenVla:
    """A network of a configuration like tiny's, initialised so that it learns within minutes."""
    torch.manual_seed(seed)
    model = OpenVla(config)
    with torch.no_grad():
        tower = model.vision_backbone.featurizer
        tower.pos_embed.copy_(sinusoids(config.featurizer.patches, config.featurizer.dim) * 0.5)
        table = model.language_model.model.embed_tokens.weight
        codes = sinusoids(config.bins, table.shape[1])
        table[config.action_vocab_end - config.bins : config.action_vocab_end] += 0.1 * codes
        for module in [*tower.blocks.modules(), *model.projector.modules()]:
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=1.0 / math.sqrt(module.in_features))
                nn.init.zeros_(module.bias)
    return model


def sinusoids(count: int, dim: int) -> Tensor:
    """(count, dim) sine and cosine position codes (Vaswani et al. 2017)."""
    position = torch.arange(count, dtype=torch.float32)[:, None]
    frequency = torch.exp(torch.arange(0, dim, 2, dtype=torch.float32) * (-math.log(10000.0) / dim))
    table = torch.zeros(count, dim)
    table[:, 0::2] = torch.sin(position * frequency)
    table[:, 1::2] = torch.cos(position * frequency)
    return table
