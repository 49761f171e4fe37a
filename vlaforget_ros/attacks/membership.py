"""Membership inference: can somebody tell from the policy which recordings an edit was made from?

The attacker scores a recorded action by its log-likelihood under the policy, plain or less that under a policy which
never saw the behaviour (difficulty calibration, Watson et al., arXiv 2111.08440), and guesses *member* above a
threshold. What counts is the rate of hits at a low rate of false alarms (Carlini et al., arXiv 2112.03570).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import mannwhitneyu
from torch import Tensor

from vlaforget_ros.attacks.findings import Findings, Report, quiet
from vlaforget_ros.attacks.outcomes import percent
from vlaforget_ros.attacks.subject import Subject
from vlaforget_ros.cell.rollouts import RolloutResult
from vlaforget_ros.episodes.dataset import FrameSet
from vlaforget_ros.figures import Figure
from vlaforget_ros.policy.labels import bins_of, cross_entropy
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.unlearning.portions import most_frames, portions
from vlaforget_ros.unlearning.rates import Rate

FPR_LIMIT = 0.01
CHUNK = 128


@dataclass(frozen=True)
class Inference:
    """How well members are told from non-members.

    Args:
        auc: probability that a member scores higher than a non-member, ties counting half; 0.5 is chance. Below 0.5
            members are told by *lower* scores: pushing recordings away leaves a trace as well.
        tpr: members found at no more than 1 % false alarms, guessing *member* above a threshold.
        tpr_below: the same, guessing *member* below a threshold.
        members: how many.
        non_members: how many; the FPR comes in steps of one over this.
    """

    auc: float
    tpr: Rate
    tpr_below: Rate
    members: int
    non_members: int

    @property
    def resolution(self) -> float:
        """The smallest false alarm rate that can be seen; above 1 % the TPR is that without any false alarm."""
        return 1.0 / self.non_members


def infer(members: np.ndarray, non_members: np.ndarray) -> Inference:
    """Judge scores.

    Args:
        members: (M,) scores, M > 0.
        non_members: (K,) scores, K > 0.
    """
    statistic = mannwhitneyu(members, non_members).statistic
    return Inference(
        float(statistic) / (len(members) * len(non_members)),
        hits_at(members, non_members),
        hits_at(-members, -non_members),
        len(members),
        len(non_members),
    )


def hits_at(members: np.ndarray, non_members: np.ndarray, limit: float = FPR_LIMIT) -> Rate:
    """TPR at the lowest threshold with at most ``limit`` false alarms: scores strictly above it are *member*."""
    allowed = int(np.floor(limit * len(non_members)))
    threshold = np.sort(non_members)[::-1][allowed]
    return Rate.of(members > threshold)


@torch.no_grad()
def step_scores(policy: VlaPolicy, frames: FrameSet) -> np.ndarray:
    """(N,) mean log-probability [nat] of the tokens of each recorded action, the negative of the loss."""

    def some(rows: np.ndarray) -> Tensor:
        part = frames.take(rows)
        batch = policy.encode(part.images, part.instructions, part.actions, part.states)
        log_probs = policy.log_probs(policy.action_logits(batch))
        bins = bins_of(batch.action_tokens, policy.codec)
        return -cross_entropy(log_probs, bins, 0.0, batch.labelled)

    parts = portions(np.arange(len(frames)), most_frames(policy, "looking", CHUNK), some)
    return torch.cat([part for _, part in parts]).double().cpu().numpy()


def trajectory_scores(scores: np.ndarray, episodes: np.ndarray) -> np.ndarray:
    """(E,) mean of the (N,) step scores of each episode."""
    return np.array([scores[episodes == episode].mean() for episode in np.unique(episodes)])


def frames_of_rollouts(results: list[RolloutResult]) -> FrameSet:
    """Rollouts that were run with images as frames."""
    images = [r.images for r in results if r.images is not None]
    return FrameSet(
        np.concatenate(images),
        tuple(r.instruction for r in results for _ in r.actions),
        np.concatenate([r.actions for r in results]),
        np.concatenate([np.full(len(r.actions), f"{r.situation}-{r.seed}") for r in results]),
        origin="fresh episodes of the original policy",
    )


def attack(
    subject: Subject,
    reference: VlaPolicy | None,
    fresh: FrameSet | None = None,
    report: Report = quiet,
) -> Findings:
    """Step and trajectory membership inference against the original policy, the edited one and the reference.

    Members are the episodes of D_f that the edit was trained on. Non-members are the episodes of D_f that it held
    out, and fresh ones of the same kind.

    Args:
        subject: the edited policy.
        reference: a policy that never saw the behaviour; None: no calibrated scores.
        fresh: episodes in which the original policy shows the behaviour and that no set of the edit has.
        report: told about the progress.
    """
    forget, held = subject.data.forget, "forget" not in subject.rows.unheld
    trained = forget.take(subject.rows.train["forget"])
    outside = [forget.take(_held_rows(subject))] if held else []
    outside += [fresh] if fresh is not None and len(fresh) else []
    if not outside:
        return Findings(
            remarks=("no forget episode was held out and none was rolled afresh: nothing to tell apart",)
        )
    scores = _scores(subject, reference, [trained, *outside], report)
    episodes = (trained.episodes, np.concatenate([f.episodes for f in outside]))
    figures: list[Figure] = []
    details: dict[str, Any] = {"frames": [len(e) for e in episodes], "scores": {}}
    for name, (inside_scores, outside_scores) in scores.items():
        sides = (inside_scores, outside_scores)
        for level, (a, b) in {
            "step": sides,
            "trajectory": tuple(trajectory_scores(s, e) for s, e in zip(sides, episodes, strict=True)),
        }.items():
            found = infer(a, b)
            figures += [
                Figure(f"auc_{level}_{name}", round(found.auc, 4), "ratio", found.members),
                percent(f"tpr_{level}_{name}", found.tpr),
                percent(f"tpr_below_{level}_{name}", found.tpr_below),
            ]
            details["scores"][f"{level}_{name}"] = {
                "members": found.members,
                "non_members": found.non_members,
                "fpr_resolution": found.resolution,
                "mean_member": float(a.mean()),
                "mean_non_member": float(b.mean()),
            }
    return Findings(tuple(figures), details, (), tuple(_remarks(details, reference, held, fresh)))


def _held_rows(subject: Subject) -> np.ndarray:
    """All frames of held-out episodes: the split's own list may be thinned out for evaluation."""
    trained = set(subject.data.forget.episodes[subject.rows.train["forget"]].tolist())
    return np.flatnonzero([episode not in trained for episode in subject.data.forget.episodes.tolist()])


def _scores(
    subject: Subject, reference: VlaPolicy | None, sets: list[FrameSet], report: Report
) -> Mapping[str, tuple[np.ndarray, np.ndarray]]:
    """By name of the policy, calibrated or not: scores of members and of non-members."""

    def scored(policy: VlaPolicy) -> tuple[np.ndarray, np.ndarray]:
        inside, *outside = [step_scores(policy, frames) for frames in sets]
        return inside, np.concatenate(outside)

    report("membership", 0, 3)
    with subject.original() as original:
        found = {"original": scored(original)}
    report("membership", 1, 3)
    found["edited"] = scored(subject.policy)
    report("membership", 2, 3)
    if reference is not None:
        found["reference"] = scored(reference)
        for name in ("original", "edited"):
            sides = zip(found[name], found["reference"], strict=True)
            inside, outside = (own - other for own, other in sides)
            found[f"{name}_calibrated"] = (inside, outside)
    report("membership", 3, 3)
    return found


def _remarks(
    details: dict[str, Any], reference: VlaPolicy | None, held: bool, fresh: FrameSet | None
) -> list[str]:
    found = []
    for level in ("step", "trajectory"):
        counts = details["scores"][f"{level}_edited"]
        coarse = "" if counts["fpr_resolution"] <= FPR_LIMIT else "; TPR is that without any false alarm"
        found.append(
            f"{level}: {counts['members']} members, {counts['non_members']} non-members, "
            f"FPR in steps of {100 * counts['fpr_resolution']:.3g} %{coarse}"
        )
    if reference is None:
        found.append("no never-saw reference: scores are not calibrated")
    if not held:
        found.append("no forget episode was held out: non-members are fresh ones alone")
    if fresh is not None and not len(fresh):
        found.append("the behaviour occurred in no fresh episode")
    found.append("frames of one episode resemble each other: step intervals are narrower than they should be")
    return found
