"""Weights of the language model held in 8 or 4 bits, where a GPU is too small for them as stored.

The layers are bitsandbytes': ``Linear8bitLt`` (LLM.int8: also what goes into a layer is rounded) and ``Linear4bit``
with normal floats (NF4). They are linear layers under the same names: adapters stand beside them as beside others.
Vision towers, projector, tables of words and LM head stay as they are: they are the
smaller part of a 7B policy. What is edited is never held like this: an edit loads the weights as stored.
"""

from __future__ import annotations

import importlib
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from vlaforget_ros.errors import ErrorCode, PolicyError, did_you_mean
from vlaforget_ros.policy.model import OpenVla

Weights = Literal["stored", "int8", "nf4"]
WEIGHTS: tuple[Weights, ...] = get_args(Weights)
# Numbers that share a scale. bitsandbytes 0.50 on the CPU gives wrong weights where a block goes over the end of a row.
_BLOCK = 64


def prepare(model: OpenVla, weights: Weights) -> None:
    """Exchange the linear layers of the language model's blocks for those that hold fewer bits.

    Args:
        model: the network, on the meta device; :func:`held` makes the weights that these layers hold.
        weights: how; ``stored`` changes nothing.

    Raises:
        PolicyError: 208 for another word, where bitsandbytes cannot be used, or for layers that it cannot hold.
    """
    if weights not in WEIGHTS:
        raise PolicyError(
            ErrorCode.POLICY_BAD_PARAMETER,
            "weights",
            value=weights,
            limit=", ".join(WEIGHTS),
            remedy=did_you_mean(weights, WEIGHTS),
        )
    if weights == "stored":
        return
    library = _library(weights)
    for block in model.language_model.model.layers:
        for name, layer in list(block.named_modules()):
            if isinstance(layer, nn.Linear):
                owner, _, attribute = name.rpartition(".")
                setattr(block.get_submodule(owner), attribute, _layer(library, layer, weights))


def held(owner: nn.Module, attribute: str, tensor: Tensor) -> nn.Parameter:
    """What a module holds of a tensor: the tensor, or its rounded form in a layer of :func:`prepare`.

    Args:
        owner: the module.
        attribute: name of its parameter.
        tensor: as stored, on its device.
    """
    known: Any = getattr(owner, attribute, None)
    if attribute != "weight" or type(known) in (nn.Parameter, Tensor, type(None)):
        return nn.Parameter(tensor, requires_grad=False)
    if hasattr(known, "quant_type"):
        made: Any = type(known)(tensor, requires_grad=False, quant_type=known.quant_type, module=owner)
    else:
        # These are rounded on their way from the host to a device, and at no other time.
        made = type(known)(tensor.cpu(), requires_grad=False, has_fp16_weights=False)
    rounded: nn.Parameter = made.to(tensor.device)
    return rounded


def is_rounded(model: nn.Module) -> bool:
    """Whether any linear layer holds whole numbers in place of its weights."""
    return any(
        isinstance(layer, nn.Linear) and not layer.weight.dtype.is_floating_point for layer in model.modules()
    )


def shared_parts(model: nn.Module) -> list[object]:
    """All that holds weights in a network, what is kept beside rounded ones included: what a twin does not copy."""
    parts: list[object] = [*model.parameters(), *model.buffers()]
    for layer in model.modules():
        parts += [
            part for part in (getattr(layer, "quant_state", None), getattr(layer, "state", None)) if part
        ]
    return parts


def bytes_of(model: nn.Module) -> int:
    """Memory of a network's weights [B], what is kept beside rounded ones included."""
    found = 0
    for parameter in model.parameters():
        state: Any = getattr(parameter, "quant_state", None)
        beside = state.as_dict().values() if state is not None else (getattr(parameter, "SCB", None),)
        found += parameter.nbytes + sum(value.nbytes for value in beside if isinstance(value, Tensor))
    return found


def _layer(library: Any, layer: nn.Linear, weights: Weights) -> nn.Module:
    sizes, biased = (layer.in_features, layer.out_features), layer.bias is not None
    if weights == "nf4" and layer.in_features % _BLOCK:
        raise PolicyError(
            ErrorCode.POLICY_BAD_PARAMETER,
            "weights",
            value=f"nf4 for a layer with {layer.in_features} inputs",
            limit=f"a multiple of {_BLOCK}",
            remedy="set weights to int8 or to stored",
        )
    with torch.device("meta"):
        if weights == "nf4":
            four: Any = library.Linear4bit(*sizes, bias=biased, quant_type="nf4")
            # A layout for some processors, which fails unless rows come in 32s.
            four.support_avx512bf16_for_cpu = False
            made: nn.Module = four
            return made
        eight: nn.Module = library.Linear8bitLt(*sizes, bias=biased, has_fp16_weights=False)
        return eight


def _library(weights: Weights) -> Any:
    # Its import takes seconds and looks for GPUs: only those who want it pay for it.
    try:
        return importlib.import_module("bitsandbytes").nn
    except (ImportError, RuntimeError) as error:
        raise PolicyError(
            ErrorCode.POLICY_BAD_PARAMETER,
            f"bitsandbytes cannot be used here: {error}",
            value=weights,
            limit="a build of bitsandbytes for this machine",
            remedy="pip install bitsandbytes, or set weights to stored",
        ) from error
