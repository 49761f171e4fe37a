"""The terms of the edit's objective, each a mean over tokens and then over frames.

Minimised:  L_retain + lambda_feat L_feat - lambda_f L_forget - lambda_m L_mismatch  (VLA-Forget, arXiv
2604.03956). Everything works on ``log_probs`` (N, A, B): log-probabilities of the B action tokens under the
softmax over the whole vocabulary, in ascending bin order (see :mod:`vlaforget_ros.policy.labels`). Sums over
tokens would scale with the number of action dimensions and, inside NPO's sigmoid, change where it saturates:
tokens are therefore averaged, never summed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from vlaforget_ros.policy.labels import token_mean


def kl_divergence(reference: Tensor, log_probs: Tensor, labelled: Tensor) -> Tensor:
    """(N,) mean over tokens of KL(pi_0 || pi) = sum_b p0_b (log p0_b - log p_b) over the action tokens.

    Args:
        reference: (N, A, B) of the original policy.
        log_probs: (N, A, B) of the edited one.
        labelled: (N, A) which tokens belong to the action.
    """
    return token_mean((reference.exp() * (reference - log_probs)).sum(-1), labelled)


def sharpened(log_probs: Tensor, power: float) -> Tensor:
    """(N, A, B) log of p^power, scaled to the mass that the action tokens had; power 1 changes nothing.

    A robot acts on the most likely token. Where the original policy is nearly undecided, a distribution that is
    close to its own in KL may well have the other mode on top; close to the sharpened one it cannot.
    """
    return (power * log_probs).log_softmax(-1) + log_probs.logsumexp(-1, keepdim=True)


def motion_log_prob(log_probs: Tensor, bins: Tensor, window: int) -> Tensor:
    """(N, A) log of the probability that the bin falls within ``window`` bins of ``bins``.

    With soft labels the mass of a motion is spread over neighbours: pushing one token down would move the arm
    by one bin (0.4 % of its range) and count as forgotten.
    """
    distance = (torch.arange(log_probs.shape[-1], device=bins.device) - bins[..., None]).abs()
    return log_probs.masked_fill(distance > window, -math.inf).logsumexp(-1)


def npo(log_ratio: Tensor, beta: float) -> Tensor:
    """(N,) NPO: -(2/beta) log sigmoid(-beta log_ratio) (Zhang et al., arXiv 2404.05868, eq. 3).

    Args:
        log_ratio: (N,) token mean of log pi - log pi_0 of the undesired motion.
        beta: inverse temperature. The gradient is plain ascent's times 2 / (1 + exp(-beta log_ratio)):
            bounded below by 0 and vanishing once the motion has become unlikely.
    """
    return (2.0 / beta) * functional.softplus(beta * log_ratio)


def forget_loss(
    log_probs: Tensor, reference: Tensor, mask: Tensor, form: str, beta: float, cap: float
) -> Tensor:
    """(N,) -L_forget, to be minimised, in one of three forms.

    Args:
        log_probs: (N, A) log-probability of the undesired motion, see :func:`motion_log_prob`.
        reference: (N, A) the same under the original policy.
        mask: (N, A) 1 where the recorded token is undesired.
        form: ``npo`` (bounded below by 0), ``clipped`` (-min(NLL, cap)) or ``ascent`` (-NLL, unbounded).
        beta: NPO's inverse temperature.
        cap: nats per token for ``clipped``.
    """
    if form == "npo":
        ratio = token_mean(log_probs - reference, mask)
        return npo(ratio, beta) * (mask.sum(-1) > 0)
    nll = -log_probs
    return -token_mean(nll.clamp(max=cap) if form == "clipped" else nll, mask)


def mismatch_loss(log_probs: Tensor, reference: Tensor, mask: Tensor, cap: float) -> Tensor:
    """(N,) -L_mismatch = -mean over undesired tokens of min(KL(pi_0 || pi), cap).

    Maximising an unbounded divergence has no optimum but a destroyed policy; beyond ``cap`` [nats] nothing is
    gained.

    Args:
        log_probs: (N, A, B) of the edited policy.
        reference: (N, A, B) of the original one.
        mask: (N, A) as in :func:`forget_loss`.
        cap: nats per token.
    """
    divergence = (reference.exp() * (reference - log_probs)).sum(-1)
    return -token_mean(divergence.clamp(max=cap), mask)


def feature_loss(features: Tensor, reference: Tensor) -> Tensor:
    """(N,) mean over patches of 1 - cos(features, reference), both (N, patches, D)."""
    return 1.0 - functional.cosine_similarity(features, reference, dim=-1).mean(-1)
