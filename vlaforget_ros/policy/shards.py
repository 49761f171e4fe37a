"""Weights in safetensors files, one or many: names and shapes without reading them, tensors one at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vlaforget_ros.finite import all_finite
from vlaforget_ros.policy.unusable import unusable

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


@dataclass(frozen=True)
class Shards:
    """The weights of a checkpoint.

    Args:
        directory: of the checkpoint.
        files: names of the safetensors files, in the order of their names.
        shapes: tensor name -> shape, from the files' headers.
        places: tensor name -> file.
        bytes: of all tensors as stored.
    """

    directory: Path
    files: tuple[str, ...]
    shapes: dict[str, tuple[int, ...]]
    places: dict[str, str]
    bytes: int

    @classmethod
    def open(cls, directory: Path) -> Shards:
        """Read the headers.

        Raises:
            PolicyError: 207 for a missing, truncated or malformed file, and for an index that says something else than
                the files.
        """
        listed = _index(directory)
        files = sorted(set(listed.values())) if listed is not None else [SINGLE]
        absent = [name for name in files if not (directory / name).is_file()]
        if absent:
            raise unusable(directory, f"missing file(s) {', '.join(absent)}")
        shapes: dict[str, tuple[int, ...]] = {}
        places: dict[str, str] = {}
        for name in files:
            found = file_shapes(directory, name)
            twice = sorted(found.keys() & shapes.keys())
            if twice:
                raise unusable(directory, f"{twice[0]} is in {places[twice[0]]} and in {name}")
            shapes.update(found)
            places.update(dict.fromkeys(found, name))
        if listed is not None and listed != places:
            wrong = sorted(
                name for name in listed.keys() | places.keys() if listed.get(name) != places.get(name)
            )
            raise unusable(
                directory,
                f"{INDEX} disagrees with the files about {len(wrong)} tensors: {', '.join(wrong[:5])}",
            )
        size = sum((directory / name).stat().st_size for name in files)
        return cls(directory, tuple(files), shapes, places, size)

    def below(self, prefix: str) -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors of one part, by their names in it."""
        return {
            name.removeprefix(prefix): shape for name, shape in self.shapes.items() if name.startswith(prefix)
        }

    def linear_layers(self) -> dict[str, tuple[int, int]]:
        """Names of all layers with a weight of two dimensions -> (out, in); tables of embeddings are among them."""
        return {
            name.removesuffix(".weight"): (shape[0], shape[1])
            for name, shape in self.shapes.items()
            if name.endswith(".weight") and len(shape) == 2
        }

    def dtypes(self) -> set[torch.dtype]:
        """Types of the floating-point tensors as stored."""
        found: set[str] = set()
        for file in self.files:
            with safe_open(self.directory / file, framework="pt") as opened:
                found |= {opened.get_slice(name).get_dtype() for name in opened.keys()}  # noqa: SIM118
        return {_DTYPES[name] for name in found if name in _DTYPES}

    def tensors(self, device: str, dtype: torch.dtype | None) -> Iterator[tuple[str, Tensor]]:
        """All tensors, file by file, each put on the device before the next one is read.

        Args:
            device: where to.
            dtype: of floating-point tensors; None: as stored.

        Raises:
            PolicyError: 207 for a file that cannot be read, or a value that is not finite.
        """
        for file in self.files:
            try:
                with safe_open(self.directory / file, framework="pt", device=device) as opened:
                    for name in opened.keys():  # noqa: SIM118, it is no dict
                        tensor = opened.get_tensor(name)
                        if not all_finite(tensor):
                            raise unusable(self.directory, f"{name} in {file} holds non-finite values")
                        yield (
                            name,
                            tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor,
                        )
            except (OSError, SafetensorError) as error:
                raise unusable(self.directory, f"{file}: {error}") from error


def _index(directory: Path) -> dict[str, str] | None:
    path = directory / INDEX
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        return {str(name): str(file) for name, file in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise unusable(directory, f"{INDEX} is no index: {type(error).__name__}: {error}") from error


def file_shapes(directory: Path, file: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of one file's tensors, from its header. Raises PolicyError 207, for rounded weights as well."""
    try:
        with safe_open(directory / file, framework="pt") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
            dtypes = {name: found.get_dtype() for name, found in slices.items()}
            shapes = {name: tuple(found.get_shape()) for name, found in slices.items()}
    except (OSError, SafetensorError) as error:
        raise unusable(directory, f"{file} is damaged or truncated: {error}") from error
    rounded = sorted(name for name, dtype in dtypes.items() if dtype not in _DTYPES)
    if rounded:
        raise unusable(
            directory,
            f"{file}: {rounded[0]} is of type {dtypes[rounded[0]]}, weights are {', '.join(_DTYPES)}",
            "give the weights as they were trained: `weights` of the policy node rounds them while it loads",
        )
    return shapes
