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

    Bin b (ascending in the action's value) is token ``vocab_end - 1 - b``; words that belong to an action come behind
    them. The softmax runs over the whole vocabulary, so probability that leaks to text tokens is a loss everywhere
    below.
    """
    log_probs = logits.float().log_softmax(dim=-1)
    motions = log_probs[..., codec.tokens.start : codec.tokens.stop].flip(-1)
    return torch.cat([motions, log_probs[..., list(codec.words)]], dim=-1) if codec.words else motions


def gather_positions(logits: Tensor, positions: Tensor) -> Tensor:
    """(N, A, V) rows of (N, L, V) ``logits`` at (N, A) ``positions``."""
    return logits.gather(1, positions[..., None].expand(-1, -1, logits.shape[-1]))


def bins_of(tokens: Tensor, codec: ActionCodec) -> Tensor:
    """Bin indices, as in :func:`action_log_probs`, of (N, A) token ids."""
    found: Tensor = codec.bins_of(tokens)
    return found


def soft_labels(bins: Tensor, count: int, sigma: float) -> Tensor:
    """(N, A, count) gaussian of width ``sigma`` [bins] around (N, A) bins, normalised; one-hot for sigma 0.

    Neighbouring bins are neighbouring motions; small policies learn that only from such labels, and an edit
    must use the labels its base was trained with or it sharpens every distribution that it touches.
    """
    if sigma == 0:
        return functional.one_hot(bins, count).float()
    distance = torch.arange(count, device=bins.device) - bins[..., None]
    return torch.softmax(-0.5 * (distance / sigma) ** 2, dim=-1)


def cross_entropy(log_probs: Tensor, bins: Tensor, sigma: float, labelled: Tensor) -> Tensor:
    """(N,) mean over an action's tokens of -sum_b q_b log p_b, with q of :func:`soft_labels`.

    Args:
        log_probs: (N, A, B).
        bins: (N, A).
        sigma: width of the labels [bins].
        labelled: (N, A) which tokens belong to the action.
    """
    return token_mean(-(soft_labels(bins, log_probs.shape[-1], sigma) * log_probs).sum(-1), labelled)


def token_mean(values: Tensor, mask: Tensor) -> Tensor:
    """(N,) mean of (N, A) values over the tokens where ``mask`` is 1; 0 where a frame has none."""
    return (values * mask).sum(-1) / mask.sum(-1).clamp(min=1)
