"""Base checkpoints on disk: config.json, tokenizer.json, model.safetensors, named by their digest."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import nn

from vlaforget_ros.errors import ErrorCode, PolicyError
from vlaforget_ros.policy.config import PolicyConfig
from vlaforget_ros.policy.model import OpenVla

_FILES = ("config.json", "tokenizer.json", "model.safetensors")


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
    _require_files(directory)
    lines = [[name, hashlib.sha256((directory / name).read_bytes()).hexdigest()] for name in _FILES]
    return hashlib.sha256(json.dumps(lines).encode()).hexdigest()


def load(directory: Path, device: str = "cpu") -> tuple[OpenVla, Tokenizer]:
    """Read a checkpoint; every key must be there and none besides.

    Raises:
        PolicyError: 207 naming the file, key or shape that is wrong.
    """
    _require_files(directory)
    try:
        config = PolicyConfig.model_validate_json((directory / "config.json").read_text())
        tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        tensors = load_file(directory / "model.safetensors")
    except (ValidationError, SafetensorError, ValueError) as error:
        raise _bad(directory, str(error)) from error
    except Exception as error:  # tokenizers raises bare Exception for a malformed file
        raise _bad(directory, f"tokenizer.json: {error}") from error
    model = OpenVla(config)
    _assign(directory, model, tensors)
    return model.to(device).eval(), tokenizer


def _assign(directory: Path, model: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    expected = model.state_dict()
    missing = sorted(expected.keys() - tensors.keys())
    unexpected = sorted(tensors.keys() - expected.keys())
    if missing or unexpected:
        raise _bad(directory, f"missing keys {missing[:5]}, unexpected keys {unexpected[:5]}")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise _bad(
                directory, f"{name} has shape {tuple(tensor.shape)}, not {tuple(expected[name].shape)}"
            )
        if not torch.isfinite(tensor).all():
            raise _bad(directory, f"{name} holds non-finite values")
    model.load_state_dict(tensors, assign=True)


def _require_files(directory: Path) -> None:
    absent = [name for name in _FILES if not (directory / name).is_file()]
    if absent:
        raise _bad(directory, f"missing file(s) {', '.join(absent)}")


def _bad(directory: Path, message: str) -> PolicyError:
    return PolicyError(
        ErrorCode.POLICY_BAD_CHECKPOINT,
        f"unusable checkpoint: {message}",
        value=str(directory),
        limit="config.json, tokenizer.json and model.safetensors as `vlaforget train` writes them",
        remedy="give the folder of a whole checkpoint",
    )
