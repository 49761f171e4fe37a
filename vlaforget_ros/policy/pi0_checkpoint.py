"""pi0-FAST checkpoints as lerobot saves them, without running lerobot or any code of the folder.

``pi0_files`` says what there is beside the weights. Sizes are read from the shapes of the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
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
from vlaforget_ros.policy.networks import outline
from vlaforget_ros.policy.options import FILE as OPTIONS
from vlaforget_ros.policy.options import CheckpointOptions, read_options
from vlaforget_ros.policy.pi0 import HEAD, TABLE, Pi0Fast
from vlaforget_ros.policy.pi0_files import (
    POSTPROCESSOR,
    PREPROCESSOR,
    TYPE,
    SavedConfig,
    bounds,
    extra_files,
    fast_settings,
    fast_tokenizer,
    read_saved,
)
from vlaforget_ros.policy.prompt import read_tokenizer
from vlaforget_ros.policy.shards import Shards
from vlaforget_ros.policy.unusable import reason, unusable
from vlaforget_ros.policy.weight_only import Weights, prepare

# What is wrong with a folder in which nobody has said it, and what to do.
UNSAID = (
    "no file says whether actions are motions or positions, and an arm that must hold has to know",
    f"write `actions: motion` (a zero keeps the arm where it is) or `actions: position` (numbers are targets, in the "
    f"order and units of the state) into {OPTIONS}",
)
_EMPTY_CAMERA = "observation.images.empty_camera"
_TOWER = "vision_backbone.featurizer."
_BLOCK = "language_model.model.layers.0."
# By width, of SigLIP So400m and of Gemma 2B: heads are in no file, and a network without its last blocks looks whole.
_HEADS = {1152: 16}
_DEPTHS = {1152: 27, 2048: 18}
# lerobot's, for a number that never changed.
_NO_SPAN = 1e-8


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
    saved, options = read_saved(directory), read_options(directory)
    extra_files(directory)
    bpe = read_tokenizer(directory, fast_tokenizer(directory))
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
            **fast_settings(directory),
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
    except (ValueError, ArithmeticError, IndexError) as error:
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
    names = _names(shards)
    require_keys(directory, model, given_shapes(shards))
    prepare(model, weights)
    for name, tensor in shards.tensors(device, dtype or read_options(directory).torch_dtype):
        assign(model, names[name], tensor)
    finish(model, device)
    return model.eval()


def given_shapes(shards: Shards) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors by the network's names."""
    names = _names(shards)
    return {names[name]: shape for name, shape in shards.shapes.items()}


def _names(shards: Shards) -> dict[str, str]:
    """Name of a tensor -> the network's; one table for reading and writing words may be stored under either name."""
    names = {name: network_name(name) for name in shards.shapes}
    if HEAD in names.values() and TABLE not in names.values():
        return {name: TABLE if own == HEAD else own for name, own in names.items()}
    return names


def empty_network(
    directory: Path, shards: Shards, tokenizer: Tokenizer, heads: tuple[int, ...] = ()
) -> Pi0Fast:
    """The network without its weights, on the meta device.

    Arguments and errors as of :func:`read_config`, and PolicyError 207 where nobody has said what the actions are.
    """
    config = read_config(directory, shards, tokenizer, heads)
    if read_options(directory).actions is None:
        raise unusable(directory, *UNSAID)
    model = outline(directory, config)
    if not isinstance(model, Pi0Fast):
        raise TypeError(f"{config.model_type} is no pi0-FAST")
    return model


def _cameras(saved: SavedConfig) -> int:
    """Cameras that were there in training; empty ones are never looked at."""
    return sum(
        feature.type == "VISUAL" and not name.startswith(_EMPTY_CAMERA)
        for name, feature in saved.input_features.items()
    )


def _state(directory: Path, saved: SavedConfig, count: int) -> ProprioNormalisation:
    low, high = bounds(directory, PREPROCESSOR, saved, "STATE", "observation.state", count)
    return ProprioNormalisation(low=low, high=high, mask=(True,) * count)


def _actions(
    directory: Path, saved: SavedConfig, count: int, options: CheckpointOptions
) -> ActionNormalisation:
    names = options.action_names or saved.action_feature_names or [f"action_{i}" for i in range(count)]
    if len(names) != count:
        raise unusable(directory, f"{len(names)} names for actions of {count} numbers", f"correct {OPTIONS}")
    low, high = bounds(directory, POSTPROCESSOR, saved, "ACTION", "action", count)
    return ActionNormalisation(
        names=tuple(names),
        units=("",) * count,
        q01=low,
        q99=tuple(max(end, start + _NO_SPAN) for start, end in zip(low, high, strict=True)),
        mask=(True,) * count,
        hold=(*(0.0,) * (count - 1), options.hold_gripper),
        kind=options.actions or "motion",
    )


def _tower(
    saved: SavedConfig, shapes: Mapping[str, tuple[int, ...]], heads: tuple[int, ...]
) -> VisionTowerConfig:
    dim, _, patch, _ = shapes[f"{_TOWER}embeddings.patch_embedding.weight"]
    depth = _depth(shapes, f"{_TOWER}blocks.", dim)
    return VisionTowerConfig(
        image_size=saved.image_resolution[0],
        patch_size=patch,
        dim=dim,
        depth=depth,
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
        "num_hidden_layers": _depth(shapes, "language_model.model.layers.", width),
        "num_attention_heads": shapes[f"{_BLOCK}self_attn.q_proj.weight"][0] // head,
        "num_key_value_heads": 1,
        "head_dim": head,
        "max_position_embeddings": 8192,
        "pad_token_id": 0,
        "tie_word_embeddings": not {TABLE, HEAD} <= shapes.keys(),
    }


def _depth(shapes: Mapping[str, tuple[int, ...]], prefix: str, width: int) -> int:
    """Number of blocks."""
    depth = 1 + max(
        int(name.removeprefix(prefix).split(".")[0]) for name in shapes if name.startswith(prefix)
    )
    whole = _DEPTHS.get(width, depth)
    if depth != whole:
        raise ValueError(f"missing keys: {depth} of {whole} blocks {prefix}N are there")
    return depth
