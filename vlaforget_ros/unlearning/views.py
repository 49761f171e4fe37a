"""A batch of one set as the policy under edit sees it now: what every loss is made of."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from vlaforget_ros.policy.labels import cross_entropy
from vlaforget_ros.unlearning import objective
from vlaforget_ros.unlearning.bank import Bank
from vlaforget_ros.unlearning.network import Output


class View:
    """N frames of a set. The forward pass is run when its result is first asked for, and once.

    Args:
        bank: the set.
        rows: (N,) which of its frames.
    """

    def __init__(self, bank: Bank, rows: np.ndarray) -> None:
        self.bank, self.rows = bank, rows
        self.index = torch.from_numpy(rows)

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def output(self) -> Output:
        """Features, hidden states and logits of the policy as it is now."""
        return self.bank.forward(self.rows)

    @cached_property
    def log_probs(self) -> Tensor:
        """(N, A, B) log-probabilities of the action tokens."""
        return self.bank.log_probs(self.output)

    @property
    def reference(self) -> Tensor:
        """(N, A, B) the same of the original policy."""
        return self.bank.reference[self.index].to(self.bins.device)

    @property
    def bins(self) -> Tensor:
        """(N, A) recorded bins."""
        return self.bank.bins[self.index]

    @property
    def labelled(self) -> Tensor:
        """(N, A) 1 where a token belongs to the action."""
        return self.bank.labelled[self.index]

    @property
    def mask(self) -> Tensor:
        """(N, A) 1 where the recorded token is undesired."""
        return self.bank.mask[self.index]

    @cached_property
    def motion(self) -> Tensor:
        """(N, A) log-probability of the recorded motion."""
        return objective.motion_log_prob(self.log_probs, self.bins, self.bank.window)

    @property
    def motion_reference(self) -> Tensor:
        """(N, A) the same of the original policy."""
        return self.bank.motion_reference[self.index]

    @property
    def nll(self) -> Tensor:
        """(N,) mean over undesired tokens of -log p(recorded motion)."""
        return objective.token_mean(-self.motion, self.mask)

    @property
    def log_ratio(self) -> Tensor:
        """(N,) mean over undesired tokens of log pi - log pi_0 of the recorded motion."""
        return objective.token_mean(self.motion - self.motion_reference, self.mask)

    @property
    def has_undesired(self) -> Tensor:
        """(N,) 1 for frames with an undesired token."""
        return (self.mask.sum(-1) > 0).float()

    def cross_entropy(self, sigma: float) -> Tensor:
        """(N,) cross-entropy of the recorded actions, with soft labels of width ``sigma`` bins."""
        return cross_entropy(self.log_probs, self.bins, sigma, self.labelled)


Views = Mapping[str, View]
Terms = dict[str, Tensor]
