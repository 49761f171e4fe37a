"""Base checkpoints on disk, ours (config, tokenizer and one file of weights) or released; named by their digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from vlaforget_ros.finite import all_finite
from vlaforget_ros.policy import oft_checkpoint, pi0_checkpoint, pi0_files
from vlaforget_ros.policy.config import PolicyConfig
from vlaforget_ros.policy.filling import assign, finish, require_keys
from vlaforget_ros.policy.memory import free_cached_memory, is_out_of_memory, out_of_memory
from vlaforget_ros.policy.model import OpenVla
from vlaforget_ros.policy.networks import outline
from vlaforget_ros.policy.options import FILE as OPTIONS
from vlaforget_ros.policy.prompt import TOKENIZER, read_tokenizer, require_ids
from vlaforget_ros.policy.released import empty_network, is_released, load_network
from vlaforget_ros.policy.room import require_device, require_dtype, require_memory
from vlaforget_ros.policy.shards import INDEX, Shards
from vlaforget_ros.policy.unusable import reason, unusable
from vlaforget_ros.policy.weight_only import WEIGHTS, Weights, prepare

_FILES = ("config.json", TOKENIZER, "model.safetensors")


def save(directory: Path, model: OpenVla, tokenizer: Tokenizer) -> str:
    """Write a checkpoint and return its digest."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(model.config.model_dump(mode="json"), indent=2) + "\n")
    tokenizer.save(str(directory / "tokenizer.json"))
    tensors = {
        name: tensor.contiguous() for name, tensor in model.state_dict().items() if name not in model.shared
    }
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return digest(directory)


def digest(directory: Path) -> str:
    """SHA-256 over the names and SHA-256 digests of the checkpoint's files, as 64 hex digits."""
    lines = [[name, _sha256(directory / name)] for name in files(directory)]
    return hashlib.sha256(json.dumps(lines).encode()).hexdigest()


def files(directory: Path) -> tuple[str, ...]:
    """Names of the files that make a checkpoint, in either layout. Raises PolicyError 207 where one is missing."""
    pi0 = pi0_files.is_pi0(directory)
    if not pi0 and not is_released(directory):
        _require(directory, _FILES)
        return _FILES
    _require(directory, ("config.json", TOKENIZER))
    present = [name for name in (INDEX, OPTIONS) if (directory / name).is_file()]
    beside = (pi0_files if pi0 else oft_checkpoint).extra_files(directory)
    return ("config.json", TOKENIZER, *present, *Shards.open(directory).files, *beside)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load(
    directory: Path, device: str = "cpu", dtype: torch.dtype | None = None, weights: Weights = "stored"
) -> tuple[OpenVla, Tokenizer]:
    """Read a checkpoint, ours or in a layout of those who made the policy; every key must be there and none besides.

    Args:
        directory: of the checkpoint.
        device: where to.
        dtype: of a released checkpoint's weights; None: as stored.
        weights: how those of the language model are held.

    Raises:
        PolicyError: 204 without room for the weights, 207 naming the file, key or shape that is wrong, 208 for a device
            that is not there, a type that it does not know and weights that cannot be held so.
    """
    require_device(device)
    try:
        model, tokenizer = _load(directory, device, dtype, weights)
    except (RuntimeError, MemoryError) as error:
        # What was free when it was asked for may be another process's by now.
        if is_out_of_memory(error):
            free_cached_memory()
            raise out_of_memory(f"the weights of {directory}") from error
        raise
    require_ids(directory, tokenizer, model.config)
    return model, tokenizer


def _load(
    directory: Path, device: str, dtype: torch.dtype | None, weights: Weights
) -> tuple[OpenVla, Tokenizer]:
    pi0 = pi0_files.is_pi0(directory)
    if pi0 or is_released(directory):
        _require(directory, (TOKENIZER,))
        _require_place(directory, device, weights)
        tokenizer = read_tokenizer(directory)
        if pi0:
            return pi0_checkpoint.load_network(
                directory, tokenizer, device, dtype, weights=weights
            ), tokenizer
        return load_network(directory, device, dtype, weights=weights), tokenizer
    _require(directory, _FILES)
    _require_place(directory, device, weights)
    tokenizer = read_tokenizer(directory)
    config = read_own_config(directory)
    try:
        tensors = load_file(directory / "model.safetensors")
    except (SafetensorError, ValueError) as error:
        raise unusable(directory, str(error)) from error
    model = outline(directory, config)
    _fill(directory, model, tensors, device, weights)
    return model.requires_grad_(weights == "stored").eval(), tokenizer


def _require_place(directory: Path, device: str, weights: Weights) -> None:
    require_dtype(directory, device)
    if weights in WEIGHTS:
        require_memory(directory, device, weights)


def empty(directory: Path) -> tuple[OpenVla, Tokenizer]:
    """The network of a checkpoint in any layout without its weights, on the meta device, and the tokenizer.

    Raises:
        PolicyError: 207 for an unusable checkpoint.
    """
    files(directory)
    tokenizer = read_tokenizer(directory)
    if pi0_files.is_pi0(directory):
        return pi0_checkpoint.empty_network(directory, Shards.open(directory), tokenizer), tokenizer
    if is_released(directory):
        return empty_network(directory, Shards.open(directory)), tokenizer
    config = read_own_config(directory)
    return outline(directory, config), tokenizer


def read_own_config(directory: Path) -> PolicyConfig:
    """The configuration of a checkpoint in our layout. Raises PolicyError 207."""
    try:
        text = (directory / "config.json").read_text(encoding="utf-8")
        _require_own(directory, json.loads(text))
        return PolicyConfig.model_validate_json(text)
    except (OSError, ValueError) as error:
        raise unusable(directory, f"config.json: {reason(error)}") from error


def _require_own(directory: Path, saved: Any) -> None:
    """Refuse the configuration of a network of another kind by its name, not by each field that it lacks."""
    if not isinstance(saved, dict):
        raise unusable(directory, f"config.json holds no object but {type(saved).__name__}")
    if saved.keys() & {"language", "featurizer", "norm_stats"}:
        return
    names = [saved.get(key) for key in ("architectures", "model_type", "type")]
    told = ", ".join(str(name) for name in names if name) or "nothing that says of which"
    raise unusable(
        directory,
        f"config.json is of another architecture: {told}",
        "give a policy: `vlaforget models` lists those that can be served (openvla, pi0_fast)",
    )


def _fill(
    directory: Path, model: OpenVla, tensors: dict[str, torch.Tensor], device: str, weights: Weights
) -> None:
    require_keys(directory, model, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
    prepare(model, weights)
    for name, tensor in tensors.items():
        if not all_finite(tensor):
            raise unusable(directory, f"{name} holds non-finite values")
        assign(model, name, tensor.to(device))
    finish(model, device)


def _require(directory: Path, names: Sequence[str]) -> None:
    absent = [name for name in names if not (directory / name).is_file()]
    if absent:
        raise unusable(directory, f"missing file(s) {', '.join(absent)}")
