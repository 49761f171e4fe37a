"""What a checkpoint is, from its configuration and the headers of its files: no weight is read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlaforget_ros.adapters.lerobot_names import network_name
from vlaforget_ros.errors import PolicyError
from vlaforget_ros.policy import oft_checkpoint, pi0_checkpoint, pi0_files
from vlaforget_ros.policy.checkpoint import read_own_config
from vlaforget_ros.policy.config import PolicyConfig, VisionTowerConfig
from vlaforget_ros.policy.filling import require_keys
from vlaforget_ros.policy.networks import outline
from vlaforget_ros.policy.options import FILE as OPTIONS
from vlaforget_ros.policy.options import read_options
from vlaforget_ros.policy.parts import component
from vlaforget_ros.policy.prompt import TOKENIZER, read_tokenizer, require_ids
from vlaforget_ros.policy.released import given_shapes, is_released, read_config
from vlaforget_ros.policy.shards import Shards
from vlaforget_ros.policy.unusable import unusable

RELEASED, OFT, PI0, OWN = "OpenVLA as released", "OpenVLA-OFT", "pi0-FAST of lerobot", "vlaforget"


def inspect(directory: Path, heads: tuple[int, ...] = ()) -> dict[str, Any]:
    """Layout, sizes, components, data sets, and what would keep it from being served.

    Args:
        directory: of the checkpoint.
        heads: attention heads of each vision tower, where no file says so.

    Raises:
        PolicyError: 207 where configuration or weights cannot be read at all.
    """
    shards = Shards.open(directory)
    config, layout = _config(directory, shards, heads)
    language = config.language
    beside = oft_checkpoint.read_shapes(directory) if layout == OFT else {}
    counts = {"visual": 0, "projector": 0, "language": 0, "head": 0}
    for name, shape in {**shards.shapes, **beside}.items():
        counts[component(network_name(name))] += math.prod(shape)
    return {
        "name": config.name,
        "layout": layout,
        "parameters": sum(counts.values()),
        "bytes": shards.bytes,
        "files": len(shards.files),
        "components": {
            "visual": {"parameters": counts["visual"], "towers": [_tower(tower) for tower in config.towers]},
            "projector": {"parameters": counts["projector"], "layers": 1 if config.fast else 3},
            "language": {
                "parameters": counts["language"],
                "blocks": language.get("num_hidden_layers", 32),
                "width": language.get("hidden_size", 4096),
            },
            **({"head": {"parameters": counts["head"]}} if config.oft else {}),
        },
        **_extra(config),
        "image_size": config.featurizer.image_size,
        "action_tokens": [config.action_vocab_end - config.bins, config.action_vocab_end - 1],
        "data_sets": {key: len(stats.q01) for key, stats in config.norm_stats.items()},
        "problems": _problems(directory, config, shards, layout),
    }


def require_servable(directory: Path) -> None:
    """Refuse a checkpoint of which configuration and headers say that it cannot be served.

    Raises:
        PolicyError: 207 with the first problem.
    """
    problems = inspect(directory)["problems"]
    if problems:
        raise unusable(directory, problems[0].removeprefix("unusable checkpoint: "))


def _config(directory: Path, shards: Shards, heads: tuple[int, ...]) -> tuple[PolicyConfig, str]:
    """Configuration and layout of a checkpoint."""
    if pi0_files.is_pi0(directory):
        # Where the FAST tokens lie depends on the tokenizer, which must be there for that.
        pi0_files.extra_files(directory)
        tokenizer = read_tokenizer(directory)
        return pi0_checkpoint.read_config(directory, shards, tokenizer, heads), PI0
    if not is_released(directory):
        return read_own_config(directory), OWN
    layout = OFT if oft_checkpoint.read_shapes(directory) else RELEASED
    return read_config(directory, shards, heads), layout


def _given(directory: Path, shards: Shards, layout: str) -> Mapping[str, tuple[int, ...]]:
    """Shapes of the tensors, by the network's names."""
    if layout == OWN:
        return shards.shapes
    return pi0_checkpoint.given_shapes(shards) if layout == PI0 else given_shapes(directory, shards)


def _extra(config: PolicyConfig) -> dict[str, Any]:
    if config.extra is None:
        return {}
    state = len(config.state.low) if config.state else 0
    kinds = sorted({entry.kind for entry in config.norm_stats.values()})
    return {
        "chunk": config.chunk,
        "cameras": config.cameras,
        "state": state,
        "actions": ", ".join(kinds),
    }


def _tower(tower: VisionTowerConfig) -> dict[str, Any]:
    return {
        "blocks": tower.depth,
        "used": tower.feature_block % tower.depth + 1,
        "width": tower.dim,
        "heads": tower.heads,
        "patches": tower.patches,
    }


def _problems(directory: Path, config: PolicyConfig, shards: Shards, layout: str) -> list[str]:
    """What would be refused when it is served, in words."""
    found = []
    try:
        require_keys(directory, outline(directory, config), _given(directory, shards, layout))
    except PolicyError as error:
        found.append(error.message)
    if not (directory / TOKENIZER).is_file():
        found.append(f"{TOKENIZER} is missing: copy the tokenizer of the release beside the weights")
    else:
        try:
            require_ids(directory, read_tokenizer(directory), config)
        except PolicyError as error:
            found.append(error.message)
    if pi0_files.is_pi0(directory) and read_options(directory).actions is None:
        found.append(": ".join(pi0_checkpoint.UNSAID))
    if len(config.norm_stats) > 1:
        found.append(f"{OPTIONS} must name the data set (unnorm_key): there are {len(config.norm_stats)}")
    return found
