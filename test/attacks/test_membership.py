"""Membership inference: rates by hand, scores of a real policy, honest counts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from vlaforget_ros.attacks.membership import (
    attack,
    hits_at,
    infer,
    step_scores,
    trajectory_scores,
)
from vlaforget_ros.attacks.subject import Subject
from vlaforget_ros.policy.labels import action_log_probs, bins_of
from vlaforget_ros.policy.policy import VlaPolicy


def test_auc_counts_pairs_and_halves_of_ties() -> None:
    found = infer(np.array([3.0, 2.0]), np.array([1.0, 2.0]))
    # Pairs: 3>1, 3>2, 2>1, 2=2.
    assert found.auc == pytest.approx(3.5 / 4)
    assert (found.members, found.non_members, found.resolution) == (2, 2, 0.5)
    assert infer(np.arange(5.0), np.arange(5.0)).auc == pytest.approx(0.5)


def test_tpr_allows_one_false_alarm_in_a_hundred_and_none_in_fewer() -> None:
    few = np.array([0.0, 1.0, 2.0])
    assert hits_at(np.array([1.5, 2.0, 2.5, 3.0]), few).value == 0.5
    many = np.arange(200.0)
    # 1 % of 200: two false alarms, so the threshold is the third largest, 197.
    assert hits_at(np.array([196.0, 197.0, 197.5, 300.0]), many).value == 0.5


def test_members_below_are_found_by_the_other_side() -> None:
    found = infer(np.array([-5.0, -6.0, 1.0]), np.array([0.0, 1.0, 2.0]))
    assert found.auc < 0.5
    assert found.tpr.value == 0.0
    assert found.tpr_below.value == pytest.approx(2 / 3)


def test_step_scores_are_mean_log_probabilities_of_the_recorded_tokens(subject: Subject) -> None:
    frames, policy = subject.data.forget.take(np.arange(5)), subject.policy
    batch = policy.encode(frames.images, frames.instructions, frames.actions)
    with torch.no_grad():
        logits = policy.action_logits(batch)
    direct = logits.log_softmax(-1).gather(-1, batch.action_tokens[..., None])[..., 0].mean(-1)
    found = step_scores(policy, frames)
    np.testing.assert_allclose(found, direct.numpy(), rtol=1e-5)
    assert (
        action_log_probs(logits, policy.codec).shape[:2] == bins_of(batch.action_tokens, policy.codec).shape
    )


def test_trajectory_scores_are_means_of_episodes() -> None:
    episodes = np.array(["b", "a", "b", "a"])
    assert trajectory_scores(np.array([1.0, 2.0, 3.0, 6.0]), episodes).tolist() == [4.0, 2.0]


def test_the_attack_on_a_real_edit_names_every_policy_and_how_few_episodes_there_are(
    subject: Subject, reference: VlaPolicy
) -> None:
    found = attack(subject, reference)
    figures = {figure.name: figure for figure in found.figures}
    policies = ("original", "edited", "reference", "original_calibrated", "edited_calibrated")
    for policy in policies:
        for level in ("step", "trajectory"):
            assert 0 <= figures[f"auc_{level}_{policy}"].value <= 1
            assert figures[f"tpr_{level}_{policy}"].n == figures[f"tpr_below_{level}_{policy}"].n
    counts = found.details["scores"]["trajectory_edited"]
    assert (counts["members"], counts["non_members"]) == (2, 1)
    assert any("2 members, 1 non-members, FPR in steps of 100 %" in remark for remark in found.remarks)
    assert any("without any false alarm" in remark for remark in found.remarks)


def test_the_original_is_scored_with_its_own_weights(subject: Subject) -> None:
    frames = subject.data.forget.take(np.arange(4))
    edited = step_scores(subject.policy, frames)
    with subject.original() as policy:
        original = step_scores(policy, frames)
    assert not np.allclose(edited, original)
    np.testing.assert_array_equal(step_scores(subject.policy, frames), edited)


def test_without_non_members_it_says_so(subject: Subject) -> None:
    bare = replace(subject, rows=replace(subject.rows, unheld=("forget",)))
    found = attack(bare, None)
    assert found.figures == ()
    assert "nothing to tell apart" in found.remarks[0]
    fresh = subject.data.retain.take(np.arange(6))
    assert any("fresh ones alone" in remark for remark in attack(bare, None, fresh).remarks)
