"""What a checkpoint is, from its configuration and the headers of its files: no weight is read."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from vlaforget_ros.errors import PolicyError
from vlaforget_ros.policy import oft_checkpoint
from vlaforget_ros.policy.checkpoint import TOKENIZER, read_own_config, read_tokenizer
from vlaforget_ros.policy.config import PolicyConfig, VisionTowerConfig
from vlaforget_ros.policy.options import FILE as OPTIONS
from vlaforget_ros.policy.prompt import BOS, special_id
from vlaforget_ros.policy.released import is_released, read_config
from vlaforget_ros.policy.shards import Shards

RELEASED, OFT, OWN = "OpenVLA as released", "OpenVLA-OFT", "vlaforget"


def inspect(directory: Path, heads: tuple[int, ...] = ()) -> dict[str, Any]:
    """Layout, sizes, components, data sets, and what would keep it from being served.

    Args:
        directory: of the checkpoint.
        heads: attention heads of each vision tower, where no file says so.

    Raises:
        PolicyError: 207 where configuration or weights cannot be read at all.
    """
    shards = Shards.open(directory)
    released = is_released(directory)
    config = read_config(directory, shards, heads) if released else read_own_config(directory)
    language = config.language
    beside = oft_checkpoint.read_shapes(directory)
    counts = {"visual": 0, "projector": 0, "language": 0, "head": 0}
    for name, shape in {**shards.shapes, **beside}.items():
        counts[_component(name)] += math.prod(shape)
    return {
        "name": config.name,
        "layout": OWN if not released else OFT if beside else RELEASED,
        "parameters": sum(counts.values()),
        "bytes": shards.bytes,
        "files": len(shards.files),
        "components": {
            "visual": {"parameters": counts["visual"], "towers": [_tower(tower) for tower in config.towers]},
            "projector": {"parameters": counts["projector"], "layers": 3},
            "language": {
                "parameters": counts["language"],
                "blocks": language.get("num_hidden_layers", 32),
                "width": language.get("hidden_size", 4096),
            },
            **({"head": {"parameters": counts["head"]}} if config.oft else {}),
        },
        **_oft(config),
        "image_size": config.featurizer.image_size,
        "action_tokens": [config.action_vocab_end - config.bins, config.action_vocab_end - 1],
        "data_sets": {key: len(stats.q01) for key, stats in config.norm_stats.items()},
        "problems": _problems(directory, config),
    }


def _oft(config: PolicyConfig) -> dict[str, Any]:
    if config.oft is None:
        return {}
    state = len(config.oft.proprio.low) if config.oft.proprio else 0
    return {"chunk": config.oft.chunk, "cameras": config.oft.images, "state": state}


def _component(name: str) -> str:
    part = name.split(".", 1)[0]
    known = {
        "vision_backbone": "visual",
        "projector": "projector",
        oft_checkpoint.HEAD: "head",
        oft_checkpoint.PROPRIO: "head",
    }
    return known.get(part, "language")


def _tower(tower: VisionTowerConfig) -> dict[str, Any]:
    return {
        "blocks": tower.depth,
        "used": tower.feature_block % tower.depth + 1,
        "width": tower.dim,
        "heads": tower.heads,
        "patches": tower.patches,
    }


def _problems(directory: Path, config: PolicyConfig) -> list[str]:
    """What would be refused when it is served, in words."""
    found = []
    if not (directory / TOKENIZER).is_file():
        found.append(f"{TOKENIZER} is missing: copy the tokenizer of the release beside the weights")
    else:
        try:
            special_id(read_tokenizer(directory), BOS)
        except PolicyError as error:
            found.append(error.message)
    if len(config.norm_stats) > 1:
        found.append(f"{OPTIONS} must name the data set (unnorm_key): there are {len(config.norm_stats)}")
    return found
