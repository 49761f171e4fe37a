"""OpenVLA checkpoints in the layout in which they were released, without running their code.

A folder with ``config.json`` (``model_type`` openvla), safetensors files with an index, and a tokenizer. What
config.json leaves to timm and to library defaults is read from the shapes of the weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vlaforget_ros.adapters.peft_format import WITHOUT_EFFECT
from vlaforget_ros.errors import did_you_mean
from vlaforget_ros.policy import oft_checkpoint
from vlaforget_ros.policy.config import ActionNormalisation, OftConfig, PolicyConfig
from vlaforget_ros.policy.filling import assign, finish, require_keys
from vlaforget_ros.policy.model import OpenVla
from vlaforget_ros.policy.networks import outline
from vlaforget_ros.policy.options import FILE as OPTIONS
from vlaforget_ros.policy.options import CheckpointOptions, read_options
from vlaforget_ros.policy.shards import Shards
from vlaforget_ros.policy.towers import read_tower
from vlaforget_ros.policy.unusable import reason, unusable
from vlaforget_ros.policy.weight_only import Weights, prepare

ARCHITECTURE = "OpenVLAForActionPrediction"
# Of a Llama tokenizer: the lone "▁" that upstream appends to the prompt.
SPACE_ID = 29871
_NAMES = ("dx", "dy", "dz", "droll", "dpitch", "dyaw", "gripper")
_UNITS = ("m", "m", "m", "rad", "rad", "rad", "0..1")


class _TextConfig(BaseModel):
    """Keyword arguments of LlamaConfig, which knows the defaults of what is not given."""

    model_config = ConfigDict(extra="allow")
    model_type: str = "llama"
    vocab_size: int = Field(gt=0)
    pad_token_id: int | None = None


class ReleasedConfig(BaseModel):
    """The part of upstream's config.json that is used here."""

    model_config = ConfigDict(extra="ignore")
    architectures: list[str] = Field(default=[ARCHITECTURE])
    model_type: str = "openvla"
    image_sizes: list[int]
    image_resize_strategy: str = "resize-naive"
    llm_backbone_id: str = "llama2-7b-pure"
    n_action_bins: int = 256
    norm_stats: dict[str, dict[str, Any]] | None = None
    pad_to_multiple_of: int = Field(default=64, ge=0)
    pad_token_id: int = Field(default=32000, ge=0)
    text_config: _TextConfig
    timm_model_ids: list[str] = Field(min_length=1, max_length=2)


def is_released(directory: Path) -> bool:
    """Whether config.json says that this is a checkpoint in the released layout."""
    try:
        found = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and (
        "timm_model_ids" in found or ARCHITECTURE in found.get("architectures", [])
    )


def read_config(directory: Path, shards: Shards, heads: tuple[int, ...] = ()) -> PolicyConfig:
    """The configuration of a released checkpoint, its ``vlaforget.yaml`` included.

    Args:
        directory: of the checkpoint.
        shards: its weights; their shapes give the sizes of the vision towers.
        heads: attention heads of each vision tower, in place of those of ``vlaforget.yaml``.

    Raises:
        PolicyError: 207 naming what is missing or unknown.
    """
    released, options = _read(directory), read_options(directory)
    heads = heads or options.heads
    _require_supported(directory, released)
    names = ["featurizer", "fused_featurizer"][: len(released.timm_model_ids)]
    if heads and len(heads) != len(names):
        raise unusable(directory, f"{len(heads)} numbers of heads for {len(names)} vision towers")
    if len(released.image_sizes) < len(names):
        raise unusable(directory, f"{len(released.image_sizes)} image_sizes for {len(names)} vision towers")
    towers = [
        read_tower(
            directory,
            released.timm_model_ids[place],
            shards.below(f"vision_backbone.{name}."),
            released.image_sizes[place],
            heads[place] if heads else 0,
        )
        for place, name in enumerate(names)
    ]
    beside = oft_checkpoint.read_shapes(directory)
    norm_stats = oft_checkpoint.statistics(directory) if beside else None
    norm_stats = norm_stats or released.norm_stats
    if beside:
        robot = {
            "bounds": oft_checkpoint.bounds_of(beside, options),
            "actions": oft_checkpoint.actions_of(beside, options),
        }
        options = options.model_copy(update=robot)
    data_sets = usable_statistics(directory, norm_stats, options)
    language = released.text_config.model_dump(exclude={"model_type", "torch_dtype", "dtype"})
    # The text config of the release names a padding id only; without a tokenizer of its own it is the model's.
    language["pad_token_id"] = released.pad_token_id
    try:
        return PolicyConfig(
            name=directory.name,
            featurizer=towers[0],
            fused_featurizer=towers[1] if len(towers) > 1 else None,
            language=language,
            bins=released.n_action_bins,
            action_vocab_end=released.text_config.vocab_size - released.pad_to_multiple_of,
            prompt_suffix_id=SPACE_ID,
            norm_stats=data_sets,
            centre_crop=options.centre_crop,
            oft=_oft(directory, beside, norm_stats or {}, list(data_sets), options),
        )
    except ValidationError as error:
        raise unusable(directory, reason(error), f"correct config.json, or {OPTIONS}") from error


def _require_supported(directory: Path, released: ReleasedConfig) -> None:
    """Raises PolicyError 207 for a configuration of something else than OpenVLA on Llama 2."""
    if ARCHITECTURE not in released.architectures or released.model_type != "openvla":
        raise unusable(
            directory,
            f"config.json is of another architecture: {', '.join(released.architectures)} ({released.model_type})",
            f"give the folder of a policy: {ARCHITECTURE} (openvla)",
        )
    if released.image_resize_strategy != "resize-naive":
        raise unusable(directory, f"image_resize_strategy {released.image_resize_strategy} is not supported")
    if released.text_config.model_type != "llama":
        raise unusable(
            directory, f"language model {released.text_config.model_type}: only llama is supported"
        )
    if not released.llm_backbone_id.startswith("llama2"):
        raise unusable(
            directory,
            f"llm_backbone_id {released.llm_backbone_id}: prompts of another form, which are not supported",
            "give a policy on Llama 2, as openvla-7b and what was tuned from it (openvla-v01-7b is on Vicuna)",
        )


def load_network(
    directory: Path,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    heads: tuple[int, ...] = (),
    weights: Weights = "stored",
) -> OpenVla:
    """The network of a released checkpoint, tensor by tensor onto the device: no second copy is in memory.

    Args:
        directory: of the checkpoint.
        device: where to.
        dtype: of the weights; None: as ``vlaforget.yaml`` says, and without it as stored.
        heads: as in :func:`read_config`.
        weights: how those of the language model are held.

    Raises:
        PolicyError: 207 listing missing and unexpected keys and wrong shapes, before any weight is read.
    """
    shards = Shards.open(directory)
    model = empty_network(directory, shards, heads)
    require_keys(directory, model, given_shapes(directory, shards))
    prepare(model, weights)
    dtype = dtype or read_options(directory).torch_dtype
    for name, tensor in shards.tensors(device, dtype):
        if not name.startswith(WITHOUT_EFFECT):
            assign(model, name, tensor)
    for name, tensor in oft_checkpoint.read_tensors(directory):
        assign(model, name, tensor.to(device, dtype or model.projector.fc1.weight.dtype))
    finish(model, device)
    return model.eval()


def given_shapes(directory: Path, shards: Shards) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors that have a place in the network, by name, those of OpenVLA-OFT's parts among them."""
    given = {**shards.shapes, **oft_checkpoint.read_shapes(directory)}
    return {name: shape for name, shape in given.items() if not name.startswith(WITHOUT_EFFECT)}


def empty_network(directory: Path, shards: Shards, heads: tuple[int, ...] = ()) -> OpenVla:
    """The network without its weights, on the meta device. Arguments and errors as of :func:`read_config`."""
    config = read_config(directory, shards, heads)
    return outline(directory, config)


def usable_statistics(
    directory: Path, statistics: Mapping[str, Mapping[str, Any]] | None, options: CheckpointOptions
) -> dict[str, ActionNormalisation]:
    """``norm_stats`` by data set, without data sets whose bounds leave an action no range; only the chosen one, if any.

    Raises:
        PolicyError: 207 where none is left, or not the chosen one.
    """
    if options.unnorm_key and options.unnorm_key not in (statistics or {}):
        hint = did_you_mean(options.unnorm_key, statistics or {})
        raise unusable(directory, f"{OPTIONS}: no data set {options.unnorm_key} in norm_stats", hint)
    found: dict[str, ActionNormalisation] = {}
    why: list[str] = []
    for key, entry in (statistics or {}).items():
        if options.unnorm_key not in ("", key):
            continue
        try:
            found[key] = _normalisation(entry["action"], options)
        except (KeyError, TypeError, ValueError) as error:
            why.append(f"{key}: {reason(error)}")
    if not found:
        raise unusable(
            directory,
            "config.json has no usable norm_stats" + (f" ({'; '.join(why[:3])})" if why else ""),
            "copy norm_stats (dataset_statistics.json of a fine-tuning run) into config.json",
        )
    return found


def _normalisation(action: Mapping[str, Any], options: CheckpointOptions) -> ActionNormalisation:
    names = oft_checkpoint.bound_names(options.bounds or "q01_q99")
    low, high = (tuple(map(float, action[name])) for name in names)
    known = len(low) == len(_NAMES)
    return ActionNormalisation(
        names=_NAMES if known else tuple(f"action_{place}" for place in range(len(low))),
        units=_UNITS if known else ("",) * len(low),
        q01=low,
        q99=high,
        mask=tuple(action.get("mask", [True] * len(low))),
        hold=(*(0.0,) * (len(low) - 1), options.hold_gripper),
        gripper=options.gripper,
        kind=options.actions or "motion",
    )


def _oft(
    directory: Path,
    beside: oft_checkpoint.Shapes,
    statistics: Mapping[str, Mapping[str, Any]],
    usable: list[str],
    options: CheckpointOptions,
) -> OftConfig | None:
    if not beside:
        return None
    if len(usable) > 1:
        raise unusable(
            directory,
            f"{OPTIONS} must name the data set (unnorm_key): there are {len(usable)}",
            f"one of {', '.join(usable[:5])}",
        )
    return oft_checkpoint.oft_config(directory, beside, statistics[usable[0]], options)


def _read(directory: Path) -> ReleasedConfig:
    try:
        return ReleasedConfig.model_validate_json((directory / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        raise unusable(directory, f"config.json: {reason(error)}") from error
