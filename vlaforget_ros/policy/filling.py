"""Weights into a network that was built without any: names and shapes first, tensor by tensor afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from vlaforget_ros.policy.model import OpenVla
from vlaforget_ros.policy.unusable import unusable
from vlaforget_ros.policy.weight_only import held


def require_keys(directory: Path, model: OpenVla, given: Mapping[str, tuple[int, ...]]) -> None:
    """Check that nothing is missing, unexpected or of another shape.

    Args:
        directory: of the checkpoint, for messages.
        model: the network, on the meta device.
        given: names, as the network has them, and shapes of the tensors that are there.

    Raises:
        PolicyError: 207.
    """
    wanted = {
        name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if name not in model.shared
    }
    missing, unexpected = sorted(wanted.keys() - given.keys()), sorted(given.keys() - wanted.keys())
    if missing or unexpected:
        raise unusable(directory, f"missing keys: {_listed(missing)}; unexpected keys: {_listed(unexpected)}")
    for name, shape in wanted.items():
        if given[name] != shape:
            raise unusable(directory, f"{name} has shape {given[name]}, the configuration wants {shape}")


def assign(model: nn.Module, name: str, tensor: Tensor) -> None:
    """Put a tensor where the network has a parameter of this name."""
    owner, _, attribute = name.rpartition(".")
    module = model.get_submodule(owner)
    setattr(module, attribute, held(module, attribute, tensor))


def finish(model: OpenVla, device: str) -> None:
    """What no file holds: weights that are another one's, and buffers that are computed."""
    for name, source in model.shared.items():
        owner, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(owner), attribute, model.get_parameter(source))
    model.rebuild_buffers(device)
    left = [name for name, tensor in [*model.named_buffers(), *model.named_parameters()] if tensor.is_meta]
    if left:
        raise RuntimeError(f"never filled: {left}")


def _listed(names: list[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) + more) or "none"
