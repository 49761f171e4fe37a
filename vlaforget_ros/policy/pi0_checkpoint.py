"""pi0-FAST checkpoints as lerobot saves them, without running lerobot or any code of the folder.

Beside lerobot's ``config.json``, ``model.safetensors`` and the files of its two processors, the folder holds what
lerobot fetches by name: ``tokenizer.json`` (of PaliGemma) and ``fast_tokenizer/`` with ``tokenizer.json`` and
``processor_config.json`` (of FAST). Sizes are read from the shapes of the weights.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import Tokenizer

from vlaforget_ros.adapters.lerobot_names import network_name
from vlaforget_ros.policy.config import (
    ActionNormalisation,
    FastConfig,
    PolicyConfig,
    ProprioNormalisation,
    VisionTowerConfig,
)
from vlaforget_ros.policy.filling import assign, finish, require_keys
from vlaforget_ros.policy.networks import build
from vlaforget_ros.policy.options import FILE as OPTIONS
from vlaforget_ros.policy.options import CheckpointOptions, read_options
from vlaforget_ros.policy.pi0 import HEAD, TABLE, Pi0Fast
from vlaforget_ros.policy.prompt import TOKENIZER, read_tokenizer
from vlaforget_ros.policy.shards import Shards
from vlaforget_ros.policy.unusable import reason, unusable
from vlaforget_ros.policy.weight_only import Weights, prepare

TYPE = "pi0_fast"
FAST_TOKENIZER, FAST_SETTINGS = "fast_tokenizer/tokenizer.json", "fast_tokenizer/processor_config.json"
# Where newer versions of the library put it.
_NESTED = "fast_tokenizer/bpe_tokenizer/tokenizer.json"
PREPROCESSOR, POSTPROCESSOR = "policy_preprocessor.json", "policy_postprocessor.json"
# What is wrong with a folder in which nobody has said it, and what to do.
UNSAID = (
    "no file says whether actions are motions or positions, and an arm that must hold has to know",
    f"write `actions: motion` (a zero keeps the arm where it is) or `actions: position` (numbers are targets, in the "
    f"order and units of the state) into {OPTIONS}",
)
_EMPTY_CAMERA = "observation.images.empty_camera"
_TOWER = "vision_backbone.featurizer."
_BLOCK = "language_model.model.layers.0."
# Heads of SigLIP So400m; in no file.
_HEADS = {1152: 16}
# lerobot's, for a number that never changed.
_NO_SPAN = 1e-8
_MODES = {"QUANTILES": ("q01", "q99"), "MIN_MAX": ("min", "max"), "MEAN_STD": ("mean", "std")}


class _Feature(BaseModel):
    type: str
    shape: tuple[int, ...]


class SavedConfig(BaseModel):
    """The part of lerobot's config.json that is used here; defaults are lerobot's."""

    model_config = ConfigDict(extra="ignore")
    type: str
    input_features: dict[str, _Feature]
    output_features: dict[str, _Feature]
    chunk_size: int = Field(default=50, gt=0)
    max_decoding_steps: int = 256
    image_resolution: tuple[int, int] = (224, 224)
    tokenizer_max_length: int = 200
    fast_skip_tokens: int = 128
    use_relative_actions: bool = False
    action_feature_names: list[str] | None = None
    normalization_mapping: dict[str, str]


class _FastSettings(BaseModel):
    model_config = ConfigDict(extra="ignore")
    scale: float = Field(default=10.0, gt=0)
    min_token: int = 0


def is_pi0(directory: Path) -> bool:
    """Whether config.json says that this is a pi0-FAST of lerobot."""
    try:
        found = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.get("type") == TYPE


def extra_files(directory: Path) -> tuple[str, ...]:
    """Names of the files beside weights, config.json and tokenizer.json that belong to the checkpoint.

    Raises:
        PolicyError: 207 where one is missing.
    """
    named = [PREPROCESSOR, POSTPROCESSOR]
    states = [file for name in named for file in _state_files(directory, name)]
    fetched = (_fast_tokenizer(directory), FAST_SETTINGS)
    absent = [name for name in (TOKENIZER, *fetched) if not (directory / name).is_file()]
    if absent:
        raise unusable(
            directory,
            f"missing file(s) {', '.join(absent)}",
            "lerobot fetches them by name: copy tokenizer.json of google/paligemma-3b-pt-224 beside the weights, and "
            "tokenizer.json and processor_config.json of lerobot/fast-action-tokenizer into fast_tokenizer/",
        )
    absent = [name for name in (*named, *states) if not (directory / name).is_file()]
    if absent:
        raise unusable(directory, f"missing file(s) {', '.join(absent)}")
    return (*fetched, *named, *states)


def read_config(
    directory: Path, shards: Shards, tokenizer: Tokenizer, heads: tuple[int, ...] = ()
) -> PolicyConfig:
    """The configuration of a checkpoint, its ``vlaforget.yaml`` included; actions are motions where that says nothing.

    Args:
        directory: of the checkpoint.
        shards: its weights; their shapes give the sizes.
        tokenizer: of PaliGemma: the size of its vocabulary says where the FAST tokens lie.
        heads: attention heads of the vision tower, in place of those of ``vlaforget.yaml``.

    Raises:
        PolicyError: 207 naming what is missing, unknown or not supported.
    """
    saved, options = _read(directory), read_options(directory)
    extra_files(directory)
    bpe = read_tokenizer(directory, _fast_tokenizer(directory))
    try:
        action, state = saved.output_features["action"], saved.input_features["observation.state"]
        shapes = {network_name(name): shape for name, shape in shards.shapes.items()}
        fast = FastConfig(
            chunk=saved.chunk_size,
            images=options.images or _cameras(saved),
            proprio=_state(directory, saved, state.shape[0]),
            state_slots=options.state_slots or state.shape[0],
            border=options.border,
            prompt_tokens=saved.tokenizer_max_length,
            action_tokens=saved.max_decoding_steps,
            bpe=bpe.to_str(),
            **_fast_settings(directory),
        )
        return PolicyConfig(
            model_type=TYPE,
            name=directory.name,
            featurizer=_tower(saved, shapes, heads or options.heads),
            language=_language(shapes),
            bins=bpe.get_vocab_size(),
            action_vocab_end=tokenizer.get_vocab_size(with_added_tokens=False) - saved.fast_skip_tokens,
            norm_stats={"robot": _actions(directory, saved, action.shape[0], options)},
            fast=fast,
        )
    except KeyError as error:
        raise unusable(directory, f"lacks {error.args[0]}") from error
    except (ValidationError, ValueError) as error:
        raise unusable(directory, reason(error)) from error


def load_network(
    directory: Path,
    tokenizer: Tokenizer,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    heads: tuple[int, ...] = (),
    weights: Weights = "stored",
) -> Pi0Fast:
    """The network, tensor by tensor onto the device.

    Args:
        directory: of the checkpoint.
        tokenizer: of PaliGemma.
        device: where to.
        dtype: of the weights; None: as ``vlaforget.yaml`` says, and without it as stored.
        heads: as in :func:`read_config`.
        weights: how those of the language model are held.

    Raises:
        PolicyError: 207 listing missing and unexpected keys and wrong shapes, before any weight is read, and where
            ``vlaforget.yaml`` does not say what the actions are.
    """
    shards = Shards.open(directory)
    model = empty_network(directory, shards, tokenizer, heads)
    shapes = {network_name(name): shape for name, shape in shards.shapes.items()}
    # One table for reading and writing words may be stored under either name.
    names = {HEAD: TABLE} if HEAD in shapes and TABLE not in shapes else {}
    require_keys(directory, model, {names.get(name, name): shape for name, shape in shapes.items()})
    prepare(model, weights)
    for name, tensor in shards.tensors(device, dtype or read_options(directory).torch_dtype):
        assign(model, names.get(network_name(name), network_name(name)), tensor)
    finish(model, device)
    return model.eval()


def empty_network(
    directory: Path, shards: Shards, tokenizer: Tokenizer, heads: tuple[int, ...] = ()
) -> Pi0Fast:
    """The network without its weights, on the meta device.

    Arguments and errors as of :func:`read_config`, and PolicyError 207 where nobody has said what the actions are.
    """
    config = read_config(directory, shards, tokenizer, heads)
    if read_options(directory).actions is None:
        raise unusable(directory, *UNSAID)
    with torch.device("meta"):
        model = build(config)
    if not isinstance(model, Pi0Fast):
        raise TypeError(f"{config.model_type} is no pi0-FAST")
    return model


def _fast_tokenizer(directory: Path) -> str:
    return _NESTED if (directory / _NESTED).is_file() else FAST_TOKENIZER


def _read(directory: Path) -> SavedConfig:
    try:
        saved = SavedConfig.model_validate_json((directory / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        raise unusable(directory, f"config.json: {reason(error)}") from error
    if saved.use_relative_actions:
        raise unusable(directory, "use_relative_actions is not supported", "train with absolute actions")
    if saved.image_resolution[0] != saved.image_resolution[1]:
        raise unusable(directory, f"image_resolution {saved.image_resolution} is no square")
    return saved


def _cameras(saved: SavedConfig) -> int:
    """Cameras that were there in training; empty ones are never looked at."""
    return sum(
        feature.type == "VISUAL" and not name.startswith(_EMPTY_CAMERA)
        for name, feature in saved.input_features.items()
    )


def _state(directory: Path, saved: SavedConfig, count: int) -> ProprioNormalisation:
    low, high = _bounds(directory, PREPROCESSOR, saved, "STATE", "observation.state", count)
    return ProprioNormalisation(low=low, high=high, mask=(True,) * count)


def _actions(
    directory: Path, saved: SavedConfig, count: int, options: CheckpointOptions
) -> ActionNormalisation:
    names = options.action_names or saved.action_feature_names or [f"action_{i}" for i in range(count)]
    if len(names) != count:
        raise unusable(directory, f"{len(names)} names for actions of {count} numbers", f"correct {OPTIONS}")
    low, high = _bounds(directory, POSTPROCESSOR, saved, "ACTION", "action", count)
    return ActionNormalisation(
        names=tuple(names),
        units=("",) * count,
        q01=low,
        q99=tuple(max(end, start + _NO_SPAN) for start, end in zip(low, high, strict=True)),
        mask=(True,) * count,
        hold=(*(0.0,) * (count - 1), options.hold_gripper),
        kind=options.actions or "motion",
    )


def _bounds(
    directory: Path, processor: str, saved: SavedConfig, kind: str, feature: str, count: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    mode = saved.normalization_mapping.get(kind, "IDENTITY")
    if mode not in _MODES:
        raise unusable(directory, f"normalisation {mode} of {feature} is not supported: {', '.join(_MODES)}")
    found: dict[str, torch.Tensor] = {}
    for file in _state_files(directory, processor):
        try:
            found.update(load_file(directory / file))
        except (OSError, SafetensorError) as error:
            raise unusable(directory, f"{file}: {error}") from error
    low, high = (found.get(f"{feature}.{name}") for name in _MODES[mode])
    if low is None or high is None or low.shape != (count,) or high.shape != (count,):
        raise unusable(
            directory,
            f"{processor} has no {mode} statistics of {feature} with {count} numbers",
            "save the policy with the processors of its data set",
        )
    if mode == "MEAN_STD":
        # One deviation around the mean is what becomes -1 and 1.
        low, high = low - high.double(), low + high.double()
    return tuple(low.double().tolist()), tuple(high.double().tolist())


def _state_files(directory: Path, processor: str) -> list[str]:
    try:
        steps = json.loads((directory / processor).read_text(encoding="utf-8"))["steps"]
        # Names only: a file elsewhere is no part of the checkpoint.
        return [Path(step["state_file"]).name for step in steps if step.get("state_file")]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise unusable(directory, f"{processor}: {type(error).__name__}: {error}") from error


def _fast_settings(directory: Path) -> dict[str, Any]:
    settings = _FastSettings.model_validate_json((directory / FAST_SETTINGS).read_text(encoding="utf-8"))
    return {"scale": settings.scale, "lowest": settings.min_token}


def _tower(
    saved: SavedConfig, shapes: Mapping[str, tuple[int, ...]], heads: tuple[int, ...]
) -> VisionTowerConfig:
    dim, _, patch, _ = shapes[f"{_TOWER}embeddings.patch_embedding.weight"]
    return VisionTowerConfig(
        image_size=saved.image_resolution[0],
        patch_size=patch,
        dim=dim,
        depth=1 + max(_numbers(shapes, f"{_TOWER}blocks.")),
        heads=heads[0] if heads else _HEADS.get(dim, max(1, dim // 64)),
        mlp_dim=shapes[f"{_TOWER}blocks.0.mlp.fc1.weight"][0],
        feature_block=-1,
    )


def _language(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Keyword arguments of GemmaConfig; Gemma has one head of keys and values."""
    vocabulary, width = shapes[TABLE] if TABLE in shapes else shapes[HEAD]
    head = shapes[f"{_BLOCK}self_attn.k_proj.weight"][0]
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": shapes[f"{_BLOCK}mlp.gate_proj.weight"][0],
        "num_hidden_layers": 1 + max(_numbers(shapes, "language_model.model.layers.")),
        "num_attention_heads": shapes[f"{_BLOCK}self_attn.q_proj.weight"][0] // head,
        "num_key_value_heads": 1,
        "head_dim": head,
        "max_position_embeddings": 8192,
        "pad_token_id": 0,
        "tie_word_embeddings": not {TABLE, HEAD} <= shapes.keys(),
    }


def _numbers(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> Iterator[int]:
    return (int(name.removeprefix(prefix).split(".")[0]) for name in shapes if name.startswith(prefix))
