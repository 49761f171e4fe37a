"""Checkpoints in released layouts with random weights: for speed and memory where no release can be had."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from vlaforget_ros.bench import random_oft, random_pi0
from vlaforget_ros.policy.config import ActionNormalisation, PolicyConfig
from vlaforget_ros.policy.model import OpenVla
from vlaforget_ros.policy.openvla_7b import openvla_7b_config, openvla_small_config
from vlaforget_ros.policy.options import set_options
from vlaforget_ros.policy.prompt import build_tokenizer
from vlaforget_ros.policy.released import ARCHITECTURE
from vlaforget_ros.policy.shards import INDEX, SINGLE

Size = Literal["small", "full"]
Model = Literal["openvla_7b", "openvla_oft", "pi0_fast"]
STATISTICS = ActionNormalisation(
    names=("dx", "dy", "dz", "droll", "dpitch", "dyaw", "gripper"),
    units=("m", "m", "m", "rad", "rad", "rad", "0..1"),
    q01=(-0.02,) * 6 + (0.0,),
    q99=(0.02,) * 6 + (1.0,),
    mask=(True,) * 6 + (False,),
    hold=(0.0,) * 7,
)
# Upstream's files are of about this size.
SHARD_BYTES = 5_000_000_000
# So that random weights choose action tokens, as a trained policy does.
_ACTION_GAIN = 8.0


@dataclass(frozen=True)
class Release:
    """A random checkpoint on disk.

    Args:
        directory: of the checkpoint.
        dtype: of its weights.
        largest_shard: bytes of the largest file.
    """

    directory: Path
    dtype: torch.dtype
    largest_shard: int


@contextmanager
def released(
    size: Size,
    device: str,
    instructions: tuple[str, ...],
    seed: int = 0,
    folder: Path | None = None,
    model: Model = "openvla_7b",
    dtype: torch.dtype | None = None,
) -> Iterator[Release]:
    """A random checkpoint as released, or the same with every part small, for as long as the context lasts.

    Args:
        size: of the network.
        device: on which it will run.
        instructions: that it can read.
        seed: of the weights.
        folder: where to put it; the system's temporary folder if None.
        model: kind of policy.
        dtype: of the weights; if None single precision for the CPU and bfloat16 for a GPU.
    """
    config = (openvla_7b_config if size == "full" else openvla_small_config)(STATISTICS)
    dtype = dtype or (torch.bfloat16 if device.startswith("cuda") else torch.float32)
    with tempfile.TemporaryDirectory(dir=folder) as directory:
        base = Path(directory) / "base"
        if model == "pi0_fast":
            random_pi0.write(
                base, instructions, random_pi0.Robot(chunk=50), size, dtype=dtype, device=device, seed=seed
            )
            yield Release(base, dtype, (base / SINGLE).stat().st_size)
            return
        largest = write(base, config, instructions, device, dtype, seed)
        if model == "openvla_oft":
            width = int(config.language["hidden_size"])
            random_oft.add_parts(base, width, _actions(STATISTICS), seed=seed, dtype=dtype)
        yield Release(base, dtype, largest)


def write(
    directory: Path,
    config: PolicyConfig,
    instructions: tuple[str, ...],
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    shard_bytes: int = SHARD_BYTES,
) -> int:
    """Write the files, drawing one tensor at a time on the device.

    Args:
        directory: gets the files.
        config: sizes; its statistics go into ``norm_stats``.
        instructions: that the tokenizer knows.
        device: where the numbers are drawn.
        dtype: of the stored weights.
        seed: of the weights.
        shard_bytes: most bytes of a file.

    Returns:
        bytes of the largest file.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in OpenVla(config).state_dict().items()}
    generator = torch.Generator(device).manual_seed(seed)
    shards: list[list[str]] = [[]]
    size = 0
    width = torch.empty((), dtype=dtype).element_size()
    for name, shape in shapes.items():
        if shards[-1] and size + shape.numel() * width > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += shape.numel() * width
    places: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        save_file(
            {name: _draw(name, shapes[name], config, generator, dtype) for name in names}, directory / file
        )
        places.update(dict.fromkeys(names, file))
    (directory / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    (directory / "config.json").write_text(json.dumps(_config(config), indent=1))
    set_options(directory, heads=[tower.heads for tower in config.towers])
    build_tokenizer(instructions, 1000).save(str(directory / "tokenizer.json"))
    return max((directory / file).stat().st_size for file in set(places.values()))


def _draw(
    name: str, shape: torch.Size, config: PolicyConfig, generator: torch.Generator, dtype: torch.dtype
) -> Tensor:
    if len(shape) == 1:
        fill = torch.zeros if name.endswith("bias") else torch.ones
        return fill(shape, dtype=dtype)
    std = 0.5 if "embed" in name else 1.0 / shape[1:].numel() ** 0.5
    drawn = std * torch.randn(shape, generator=generator, device=generator.device)
    if name.endswith("lm_head.weight"):
        drawn[config.action_vocab_end - config.bins : config.action_vocab_end] *= _ACTION_GAIN
    return drawn.to(dtype).cpu()


def _actions(entry: ActionNormalisation) -> dict[str, tuple[Any, ...]]:
    """As files of statistics have them."""
    return {"q01": entry.q01, "q99": entry.q99, "mask": entry.mask}


def _config(config: PolicyConfig) -> dict[str, object]:
    padding = int(config.language["vocab_size"]) - config.action_vocab_end
    statistics = {key: {"action": _actions(entry)} for key, entry in config.norm_stats.items()}
    return {
        "model_type": "openvla",
        "architectures": [ARCHITECTURE],
        "image_sizes": [tower.image_size for tower in config.towers],
        "timm_model_ids": ["random_dinov2", "random_siglip"][: len(config.towers)],
        "llm_backbone_id": "llama2-7b-pure",
        "text_config": {"model_type": "llama", **config.language},
        "pad_token_id": config.language["pad_token_id"],
        "pad_to_multiple_of": padding,
        "n_action_bins": config.bins,
        "norm_stats": statistics,
    }
