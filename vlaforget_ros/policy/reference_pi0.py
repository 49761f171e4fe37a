"""A pi0-FAST checkpoint with outputs of lerobot, against what this package computes.

For case N of B observations ``reference.safetensors`` has ``N.images`` (B, cameras, H, W, 3) uint8, ``N.state`` (B,
P) in the robot's units, ``N.prompt_ids`` and ``N.prompt_mask`` (B, L) as lerobot pads them, ``N.pixel_values`` (B,
cameras, 3, S, S), ``N.image_features`` (B, cameras, patches, D), ``N.last_logits`` (B, V) that predict the first
token, and ``N.chunk`` (B, chunk, A) in the robot's units with ``N.labelled_tokens`` and ``N.labelled_mask`` (B, L),
in which BOS stands before the action and end of sequence behind it. ``reference.json`` has for each case ``task`` (B
texts), ``well_formed`` (B), ``generated_tokens`` (B, L), and ``actions`` (B, chunk, A).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlaforget_ros.errors import ErrorCode
from vlaforget_ros.policy import checkpoint
from vlaforget_ros.policy.differences import Difference, largest
from vlaforget_ros.policy.fast import FastCodec
from vlaforget_ros.policy.images import pixel_values
from vlaforget_ros.policy.pi0 import Pi0Fast
from vlaforget_ros.policy.pi0_checkpoint import load_network
from vlaforget_ros.policy.policy import Batch, VlaPolicy
from vlaforget_ros.policy.prompt import read_tokenizer
from vlaforget_ros.policy.unusable import unusable

_NOT_ACTION = ErrorCode.POLICY_NOT_AN_ACTION_TOKEN


@torch.inference_mode()
def compared(
    directory: Path,
    cases: Sequence[Mapping[str, Any]],
    tensors: Mapping[str, Tensor],
    device: str,
    heads: tuple[int, ...],
) -> list[Difference]:
    """All comparisons, in single precision.

    Args:
        directory: of the checkpoint.
        cases: of ``reference.json``.
        tensors: of ``reference.safetensors``.
        device: where to compute.
        heads: attention heads of the vision tower, where no file says so.

    Raises:
        PolicyError: 207 for an unusable checkpoint or reference.
    """
    tokenizer = read_tokenizer(directory)
    model = load_network(directory, tokenizer, device, torch.float32, heads)
    policy = VlaPolicy(model, tokenizer, checkpoint.digest(directory))
    try:
        return [
            difference
            for number, case in enumerate(cases)
            for difference in _case(policy, model, number, case, tensors)
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise unusable(directory, f"reference: {type(error).__name__}: {error}") from error


def _case(
    policy: VlaPolicy, model: Pi0Fast, number: int, case: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> list[Difference]:
    images, states, chunks = (
        tensors[f"{number}.{name}"].cpu().numpy() for name in ("images", "state", "chunk")
    )
    shown = images if images.shape[1] > 1 else images[:, 0]
    batch = policy.encode(shown, case["task"], chunks.reshape(len(chunks), -1), states)
    pixels = pixel_values(shown, model.config, policy.device)
    features = model.look(pixels)
    prompts = [
        torch.cat([ids[mask.bool()], ids.new_tensor([ids[0]])])
        for ids, mask in zip(tensors[f"{number}.prompt_ids"], tensors[f"{number}.prompt_mask"], strict=True)
    ]
    first = policy.action_logits(batch)[:, 0]
    labelled = [
        ids[mask.bool()][1:-1]
        for ids, mask in zip(
            tensors[f"{number}.labelled_tokens"], tensors[f"{number}.labelled_mask"], strict=True
        )
    ]
    answers = policy.act_batch(shown, case["task"], states)
    theirs = [_until_end(policy.codec, tokens) for tokens in case["generated_tokens"]]
    sound = [answer.fault != _NOT_ACTION for answer in answers]
    actions = np.array(case["actions"]).reshape(len(answers), -1)
    apart = [
        float(np.abs(answer.action - wanted).max())
        for answer, wanted, fine in zip(answers, actions, case["well_formed"], strict=True)
        if fine
    ]

    def difference(what: str, value: float, limit: float = 0.0) -> Difference:
        return Difference(number, what, float(value), limit)

    def given(name: str) -> Tensor:
        return tensors[f"{number}.{name}"]

    return [
        difference("prompts that differ", _other_prompts(model, batch, prompts)),
        difference("pixels, -1..1", largest(pixels, given("pixel_values").flatten(1, 2)), 1e-5),
        difference("projector features", largest(features, given("image_features").flatten(1, 2)), 1e-5),
        difference("logits at the end of the prompt", largest(first, given("last_logits")), 1e-4),
        difference("recorded chunks with other tokens", _other_labels(batch, labelled)),
        difference("generated sequences that differ", _differ([a.tokens for a in answers], theirs)),
        difference("malformed without fault, or sound with one", _differ(case["well_formed"], sound)),
        difference("actions, robot units", max(apart, default=0.0), 1e-5),
        difference(
            "observations with the same answer as another",
            len(set(theirs)) - len({answer.tokens for answer in answers}),
        ),
    ]


def _other_prompts(model: Pi0Fast, batch: Batch, prompts: Sequence[Tensor]) -> int:
    """How many prompts are others, or end elsewhere."""
    ends = [model.config.image_tokens + len(prompt) - 1 for prompt in prompts]
    own = [ids[: len(prompt)].tolist() for ids, prompt in zip(batch.input_ids, prompts, strict=True)]
    return _differ(own, [p.tolist() for p in prompts]) + _differ(batch.action_positions[:, 0].tolist(), ends)


def _other_labels(batch: Batch, wanted: Sequence[Tensor]) -> int:
    own = [row[kept].tolist() for row, kept in zip(batch.action_tokens, batch.labelled, strict=True)]
    return _differ(own, [row.tolist() for row in wanted])


def _differ(one: Sequence[Any], other: Sequence[Any]) -> int:
    return sum(a != b for a, b in zip(one, other, strict=True))


def _until_end(codec: Any, tokens: Sequence[int]) -> tuple[int, ...]:
    end = codec.end if isinstance(codec, FastCodec) else -1
    return tuple(tokens[: tokens.index(end) + 1]) if end in tokens else tuple(tokens)
