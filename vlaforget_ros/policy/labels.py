"""Action labels: neighbouring bins are nearly the same motion, so they may share the target.

Shared by cloning and by the edit, which must use the labels its base was trained with.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from vlaforget_ros.policy.actions import ActionCodec


def action_log_probs(logits: Tensor, codec: ActionCodec) -> Tensor:
    """(N, A, B) log-probabilities of the action tokens from (N, A, V) logits.

    Bin b (ascending in the action's value) is token ``vocab_end - 1 - b``. The softmax runs over the whole
    vocabulary, so probability that leaks to text tokens is a loss everywhere below.
    """
    log_probs = logits.float().log_softmax(dim=-1)
    return log_probs[..., codec.vocab_end - codec.bins : codec.vocab_end].flip(-1)


def gather_positions(logits: Tensor, positions: Tensor) -> Tensor:
    """(N, A, V) rows of (N, L, V) ``logits`` at (N, A) ``positions``."""
    return logits.gather(1, positions[..., None].expand(-1, -1, logits.shape[-1]))


def bins_of(tokens: Tensor, codec: ActionCodec) -> Tensor:
    """Bin indices, as in :func:`action_log_probs`, of (N, A) token ids."""
    return codec.vocab_end - 1 - tokens


def soft_labels(bins: Tensor, count: int, sigma: float) -> Tensor:
    """(N, A, count) gaussian of width ``sigma`` [bins] around (N, A) bins, normalised; one-hot for sigma 0.

    Neighbouring bins are neighbouring motions; small policies learn that only from such labels, and an edit
    must use the labels its base was trained with or it sharpens every distribution that it touches.
    """
    if sigma == 0:
        return functional.one_hot(bins, count).float()
    distance = torch.arange(count, device=bins.device) - bins[..., None]
    return torch.softmax(-0.5 * (distance / sigma) ** 2, dim=-1)


def cross_entropy(log_probs: Tensor, bins: Tensor, sigma: float) -> Tensor:
    """(N,) mean over tokens of -sum_b q_b log p_b, with q of :func:`soft_labels`."""
    return -(soft_labels(bins, log_probs.shape[-1], sigma) * log_probs).sum(-1).mean(-1)
