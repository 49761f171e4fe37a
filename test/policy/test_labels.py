"""Bins, log-probabilities and soft labels on cases worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from vlaforget_ros.policy.actions import ActionCodec
from vlaforget_ros.policy.config import ActionNormalisation
from vlaforget_ros.policy.labels import action_log_probs, bins_of, cross_entropy, soft_labels


@pytest.fixture
def codec() -> ActionCodec:
    names = ("x", "y")
    stats = ActionNormalisation(
        names=names, units=names, q01=(-1, -1), q99=(1, 1), mask=(True, True), hold=(0, 0)
    )
    return ActionCodec(stats, vocab_end=20, bins=8)


def test_bins_ascend_with_the_action(codec: ActionCodec) -> None:
    actions = np.linspace(-1, 0.99, 9)[:, None].repeat(2, axis=1)
    bins = bins_of(torch.from_numpy(codec.encode(actions)), codec)
    assert bins[0].tolist() == [0, 0]
    assert torch.all(bins[1:] >= bins[:-1])
    assert int(bins.max()) <= codec.bins - 2


def test_log_probs_select_the_bin_of_a_token_and_count_leaks_to_text(codec: ActionCodec) -> None:
    logits = torch.zeros(1, 1, 24)
    logits[0, 0, 17] = 5.0  # an action token
    logits[0, 0, 3] = 4.0  # a text token
    log_probs = action_log_probs(logits, codec)
    total = math.exp(5) + math.exp(4) + 22
    assert log_probs.shape == (1, 1, 8)
    bin_index = int(bins_of(torch.tensor([[17]]), codec))
    assert log_probs[0, 0, bin_index].item() == pytest.approx(math.log(math.exp(5) / total))
    assert log_probs.exp().sum().item() < 0.8


def test_soft_labels_by_hand() -> None:
    labels = soft_labels(torch.tensor([[1]]), 3, sigma=1.0)
    weights = [math.exp(-0.5), 1.0, math.exp(-0.5)]
    assert labels[0, 0].tolist() == pytest.approx([w / sum(weights) for w in weights])
    assert soft_labels(torch.tensor([[1]]), 3, sigma=0.0)[0, 0].tolist() == [0, 1, 0]


@pytest.mark.parametrize("sigma", [0.0, 3.0])
def test_uniform_logits_cost_the_log_of_the_vocabulary(codec: ActionCodec, sigma: float) -> None:
    log_probs = action_log_probs(torch.zeros(1, 2, 24), codec)
    loss = cross_entropy(log_probs, torch.tensor([[3, 6]]), sigma, torch.ones(1, 2))
    assert loss.item() == pytest.approx(math.log(24))


def test_what_is_not_labelled_costs_nothing_and_is_not_counted() -> None:
    log_probs = torch.tensor([[[0.5, 0.5], [0.25, 0.75], [0.9, 0.1]]]).log()
    labelled = torch.tensor([[True, True, False]])
    loss = cross_entropy(log_probs, torch.tensor([[0, 0, 1]]), 0.0, labelled)
    assert loss.item() == pytest.approx(-(math.log(0.5) + math.log(0.25)) / 2)


def test_the_best_answer_to_a_soft_label_costs_its_entropy() -> None:
    labels = soft_labels(torch.tensor([[128]]), 256, sigma=3.0)
    entropy = math.log(3.0 * math.sqrt(2 * math.pi * math.e))
    log_probs = labels.clamp(min=1e-30).log()
    loss = cross_entropy(log_probs, torch.tensor([[128]]), 3.0, torch.ones(1, 1))
    assert loss.item() == pytest.approx(entropy, rel=1e-4)
