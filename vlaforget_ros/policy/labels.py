"""Soft action labels: neighbouring bins are nearly the same motion, so they share the target."""

from __future__ import annotations

import torch
from torch import Tensor

from vlaforget_ros.policy.actions import ActionCodec


def soft_label_loss(logits: Tensor, tokens: Tensor, codec: ActionCodec, sigma_bins: float) -> Tensor:
    """Cross-entropy against gaussian labels over the action bins.

    Args:
        logits: (..., V) over the whole vocabulary.
        tokens: (...) recorded action tokens.
        codec: says where the action tokens lie.
        sigma_bins: width of the gaussian [bins]; 0 is plain cross-entropy.

    Returns:
        (...) loss [nat].
    """
    log_probabilities = logits.float().log_softmax(-1)
    if sigma_bins <= 0:
        return -log_probabilities.gather(-1, tokens[..., None])[..., 0]
    # Digitising never yields 0, so the first id of the range is the largest value's bin.
    ids = torch.arange(codec.vocab_end - codec.bins, codec.vocab_end, device=logits.device)
    distance = (ids - tokens[..., None]).float() / sigma_bins
    labels = torch.exp(-0.5 * distance.square())
    labels = labels / labels.sum(-1, keepdim=True)
    return -(labels * log_probabilities[..., ids]).sum(-1)
