"""A released checkpoint with outputs of the upstream implementation, against what this package computes.

A reference is a checkpoint folder with ``reference.safetensors`` and ``reference.json``. The first has for case N:
``N.input_ids`` (1, L), ``N.pixel_values`` (B, C, S, S), ``N.projector_features`` (B, patches, D), ``N.last_logits``
(B, V) at the prompt's last position, ``N.labelled_ids`` (B, L + A + 1). The second has ``unnorm_key`` and a list of
cases with ``actions``, ``generated_tokens`` and ``loss_on_labelled_ids``, the mean over the last A + 1 positions.

Of OpenVLA-OFT a case has ``N.input_ids``, ``N.pixel_values``, ``N.projector_features`` (B, patches of all images, D),
and ``N.state`` (B, P) in the robot's units where the policy is told it; ``actions`` (B, chunk, A) and ``values``, the
same in -1..1 (B, chunk * A). Of pi0-FAST: :mod:`vlaforget_ros.policy.reference_pi0`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from vlaforget_ros.policy import reference_pi0
from vlaforget_ros.policy.actions import ActionCodec
from vlaforget_ros.policy.decoding import Decoder
from vlaforget_ros.policy.differences import Difference, features_limit, largest, repeated
from vlaforget_ros.policy.model import OpenVla
from vlaforget_ros.policy.oft import OpenVlaOft
from vlaforget_ros.policy.pi0_files import is_pi0
from vlaforget_ros.policy.released import load_network
from vlaforget_ros.policy.unusable import unusable

TENSORS, CASES = "reference.safetensors", "reference.json"
# Rounding to single precision; the bins of a range of a centimetre are forty times as wide.
ACTION_LIMIT = 1e-6


def verify(directory: Path, device: str = "cpu", heads: Sequence[int] = ()) -> list[Difference]:
    """Compare all cases of a reference, in single precision.

    Args:
        directory: checkpoint with a reference.
        device: where to compute.
        heads: attention heads of each vision tower, where no file says so.

    Raises:
        PolicyError: 207 for an unusable checkpoint or reference.
    """
    cases, tensors, key = _read(directory, device)
    if is_pi0(directory):
        return reference_pi0.compared(directory, cases, tensors, device, tuple(heads))
    model = load_network(directory, device, torch.float32, tuple(heads))
    if key not in model.config.norm_stats:
        raise unusable(
            directory, f"{CASES} names unnorm_key {key}, config.json has {list(model.config.norm_stats)}"
        )
    config = model.config
    codec = ActionCodec(config.norm_stats[key], config.action_vocab_end, config.bins, config.chunk)
    return [
        difference
        for number, case in enumerate(cases)
        for difference in _compared(directory, model, codec, number, case, tensors)
    ]


@torch.inference_mode()
def _compared(
    directory: Path,
    model: OpenVla,
    codec: ActionCodec,
    number: int,
    case: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
) -> list[Difference]:
    try:
        if isinstance(model, OpenVlaOft):
            return _oft_case(model, codec, number, case, tensors)
        return _case(model, codec, number, case, tensors)
    except (KeyError, TypeError, ValueError) as error:
        raise unusable(
            directory, f"case {number} of the reference: {type(error).__name__}: {error}"
        ) from error


def _case(
    model: OpenVla, codec: ActionCodec, number: int, case: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> list[Difference]:
    ids, pixels, labelled, features, last = (
        tensors[f"{number}.{name}"]
        for name in ("input_ids", "pixel_values", "labelled_ids", "projector_features", "last_logits")
    )
    tokens, actions = np.array(case["generated_tokens"]), np.array(case["actions"])
    loss = float(case["loss_on_labelled_ids"])
    prompts = ids.expand(len(pixels), -1)
    projected = model.projector(model.vision_backbone(pixels))
    logits = model.logits(projected, prompts)[:, -1]
    own = Decoder(model, codec.tokens, checked=codec.dims).generate(pixels, prompts, codec.dims).cpu().numpy()
    decoded = codec.decode(own) if codec.is_action(own).all() else np.full(own.shape, np.nan)
    return [
        Difference(number, "projector features", largest(projected, features), features_limit(features)),
        Difference(number, "logits at the end of the prompt", largest(logits, last), 1e-4),
        Difference(
            number, "loss on labelled ids", abs(labelled_loss(model, projected, labelled, codec) - loss), 1e-4
        ),
        Difference(number, "greedy tokens that differ", float((own != tokens).sum()), 0),
        Difference(number, "actions, robot units", float(np.abs(decoded - actions).max()), ACTION_LIMIT),
        Difference(
            number, "pairs of images with the same tokens", float(repeated(own) - repeated(tokens)), 0
        ),
    ]


def _oft_case(
    model: OpenVlaOft, codec: ActionCodec, number: int, case: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> list[Difference]:
    ids, pixels, features = (
        tensors[f"{number}.{name}"] for name in ("input_ids", "pixel_values", "projector_features")
    )
    state = tensors[f"{number}.state"].cpu().numpy() if model.oft.proprio else None
    count = len(pixels)
    values, actions = (np.array(case[name]).reshape(count, -1) for name in ("values", "actions"))
    scaled = None if state is None else model.scaled(state)
    own = model.act(pixels, ids.expand(count, -1), scaled).cpu().numpy()
    return [
        Difference(
            number, "projector features", largest(model.look(pixels), features), features_limit(features)
        ),
        Difference(number, "chunk, -1..1", float(np.abs(own - values).max()), 1e-4),
        Difference(
            number, "actions, robot units", float(np.abs(codec.robot_units(own) - actions).max()), 1e-5
        ),
        Difference(number, "pairs of images with the same chunk", float(repeated(own) - repeated(values)), 0),
    ]


def labelled_loss(model: OpenVla, projected: Tensor, labelled: Tensor, codec: ActionCodec) -> float:
    """Mean cross-entropy over the last A + 1 positions (action tokens and the end of the sequence).

    Args:
        model: the network.
        projected: (B, patches, D).
        labelled: (B, L + A + 1) prompt, action tokens, end of sequence.
        codec: says how many action tokens there are.
    """
    count = codec.dims + 1
    logits = model.logits(projected, labelled)[:, -count - 1 : -1]
    return float(functional.cross_entropy(logits.float().flatten(0, 1), labelled[:, -count:].flatten()))


def _read(directory: Path, device: str) -> tuple[list[Mapping[str, Any]], dict[str, Tensor], str]:
    try:
        document = json.loads((directory / CASES).read_text(encoding="utf-8"))
        return (
            list(document["cases"]),
            load_file(directory / TENSORS, device=device),
            str(document.get("unnorm_key", "")),
        )
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise unusable(
            directory,
            f"no reference: {type(error).__name__}: {error}",
            f"give a folder with {CASES} and {TENSORS} of the upstream implementation (docs/models.md)",
        ) from error
