"""Base checkpoints on disk, ours (config, tokenizer and one file of weights) or released; named by their digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import nn

from vlaforget_ros.policy.config import PolicyConfig
from vlaforget_ros.policy.model import OpenVla
from vlaforget_ros.policy.oft import build
from vlaforget_ros.policy.oft_checkpoint import extra_files
from vlaforget_ros.policy.options import FILE as OPTIONS
from vlaforget_ros.policy.released import is_released, load_network
from vlaforget_ros.policy.shards import INDEX, Shards
from vlaforget_ros.policy.unusable import unusable

TOKENIZER = "tokenizer.json"
_FILES = ("config.json", TOKENIZER, "model.safetensors")


def save(directory: Path, model: OpenVla, tokenizer: Tokenizer) -> str:
    """Write a checkpoint and return its digest."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(model.config.model_dump(mode="json"), indent=2) + "\n")
    tokenizer.save(str(directory / "tokenizer.json"))
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return digest(directory)


def digest(directory: Path) -> str:
    """SHA-256 over the names and SHA-256 digests of the checkpoint's files, as 64 hex digits."""
    lines = [[name, _sha256(directory / name)] for name in files(directory)]
    return hashlib.sha256(json.dumps(lines).encode()).hexdigest()


def files(directory: Path) -> tuple[str, ...]:
    """Names of the files that make a checkpoint, in either layout. Raises PolicyError 207 where one is missing."""
    if not is_released(directory):
        _require(directory, _FILES)
        return _FILES
    _require(directory, ("config.json", TOKENIZER))
    present = [name for name in (INDEX, OPTIONS) if (directory / name).is_file()]
    return ("config.json", TOKENIZER, *present, *Shards.open(directory).files, *extra_files(directory))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load(directory: Path, device: str = "cpu", dtype: torch.dtype | None = None) -> tuple[OpenVla, Tokenizer]:
    """Read a checkpoint, ours or in OpenVLA's released layout; every key must be there and none besides.

    Args:
        directory: of the checkpoint.
        device: where to.
        dtype: of a released checkpoint's weights; None: as stored.

    Raises:
        PolicyError: 207 naming the file, key or shape that is wrong.
    """
    if is_released(directory):
        _require(directory, (TOKENIZER,))
        tokenizer = read_tokenizer(directory)
        return load_network(directory, device, dtype), tokenizer
    _require(directory, _FILES)
    tokenizer = read_tokenizer(directory)
    config = read_own_config(directory)
    try:
        tensors = load_file(directory / "model.safetensors")
    except (SafetensorError, ValueError) as error:
        raise unusable(directory, str(error)) from error
    model = build(config)
    _assign(directory, model, tensors)
    return model.to(device).eval(), tokenizer


def read_own_config(directory: Path) -> PolicyConfig:
    """The configuration of a checkpoint in our layout. Raises PolicyError 207."""
    try:
        return PolicyConfig.model_validate_json((directory / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValidationError, ValueError) as error:
        raise unusable(directory, f"config.json: {error}") from error


def read_tokenizer(directory: Path) -> Tokenizer:
    """The text tokenizer. Raises PolicyError 207."""
    try:
        return Tokenizer.from_file(str(directory / TOKENIZER))
    except Exception as error:  # tokenizers raises bare Exception for a malformed file
        raise unusable(directory, f"{TOKENIZER}: {error}") from error


def _assign(directory: Path, model: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    expected = model.state_dict()
    missing = sorted(expected.keys() - tensors.keys())
    unexpected = sorted(tensors.keys() - expected.keys())
    if missing or unexpected:
        raise unusable(directory, f"missing keys {missing[:5]}, unexpected keys {unexpected[:5]}")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise unusable(
                directory, f"{name} has shape {tuple(tensor.shape)}, not {tuple(expected[name].shape)}"
            )
        if not torch.isfinite(tensor).all():
            raise unusable(directory, f"{name} holds non-finite values")
    model.load_state_dict(tensors, assign=True)


def _require(directory: Path, names: Sequence[str]) -> None:
    absent = [name for name in names if not (directory / name).is_file()]
    if absent:
        raise unusable(directory, f"missing file(s) {', '.join(absent)}")
