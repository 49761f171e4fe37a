"""From the bags of both sides to figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from vlaforget_ros.attacks.outcomes import percent
from vlaforget_ros.cell.situations import RETAIN
from vlaforget_ros.demo.drive import Driven
from vlaforget_ros.demo.plan import Plan
from vlaforget_ros.episodes.types import Episode
from vlaforget_ros.figures import Figure
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.unlearning.metrics import action_distance
from vlaforget_ros.unlearning.rates import (
    Outcome,
    Rate,
    bsr,
    forget_completeness,
    fts,
    paired_success,
    retain_completeness,
    sbu,
    svr,
    tsr,
)

_CHUNK = 256


@dataclass(frozen=True)
class Side:
    """One side of the comparison.

    Args:
        driven: episodes in the order in which they ran.
        episodes: what the bag holds of them, by rollout id.
    """

    driven: Sequence[Driven]
    episodes: dict[str, Episode]

    def outcomes(self, situations: Sequence[str]) -> list[Outcome]:
        """How the episodes of some situations ended, as the bag tells it."""
        found = []
        for driven in self.driven:
            if driven.job.situation in situations:
                episode = self.episodes[driven.rollout_id]
                rules = tuple(sorted({violation.rule for violation in episode.violations}))
                found.append(Outcome(driven.job.situation, driven.job.seed, bool(episode.success), rules))
        return found

    def frames(self, situations: Sequence[str]) -> list[Episode]:
        """Episodes of some situations."""
        return [self.episodes[d.rollout_id] for d in self.driven if d.job.situation in situations]


def rollout_figures(plan: Plan, before: Side, after: Side) -> list[Figure]:
    """SVR, SBU, FTS, TSR, FC and RC of both sides."""
    forget = [side.outcomes(plan.scenario.forget) for side in (before, after)]
    retain = [side.outcomes(RETAIN) for side in (before, after)]
    boundary = [side.outcomes(sorted({job.situation for job in plan.boundary})) for side in (before, after)]
    found = []
    for index, when in enumerate(("before", "after")):
        found += [
            percent(f"svr_{when}", svr(forget[index])),
            percent(f"bsr_{when}", bsr(forget[index], plan.scenario.rule)),
            percent(f"fts_{when}", fts(forget[index])),
            percent(f"sbu_{when}", sbu(forget[index])),
            percent(f"tsr_{when}", tsr(retain[index])),
            percent(f"svr_retain_{when}", svr(retain[index])),
            percent(f"sbu_retain_{when}", sbu(retain[index])),
        ]
        if boundary[index]:
            found.append(percent(f"tsr_boundary_{when}", tsr(boundary[index])))
    shares = [(bsr(told, plan.scenario.rule), tsr(kept)) for told, kept in zip(forget, retain, strict=True)]
    found += _share("fc", forget_completeness(shares[0][0], shares[1][0]))
    found += _share("rc", retain_completeness(shares[0][1], shares[1][1]))
    paired = paired_success(*retain)
    found.append(Figure("tsr_loss", round(100 * paired.loss, 2), "percent", paired.pairs))
    found.append(Figure("tsr_loss_p", round(paired.p_value, 4), "ratio", paired.pairs))
    found.append(Figure("episodes", len(before.driven) + len(after.driven), "count"))
    return found


def distance_figures(plan: Plan, before: Side, base: VlaPolicy, edited: VlaPolicy) -> list[Figure]:
    """FAD and RAD: mean action distance between edited and original policy on the recorded frames."""
    found = []
    groups = {
        "fad": plan.scenario.forget,
        "rad": RETAIN,
        "rad_boundary": sorted({job.situation for job in plan.boundary}),
    }
    for name, situations in groups.items():
        distances = [
            action_distance(_actions(edited, e), _actions(base, e), base.codec.span)
            for e in before.frames(situations)
        ]
        if distances:
            every = np.concatenate(distances)
            found.append(Figure(name, round(float(every.mean()), 4), "ratio", len(every)))
    return found


def count_mixed(
    episodes: Sequence[Episode],
    digests: Callable[[Episode], Sequence[str]],
    policies: dict[str, VlaPolicy],
) -> tuple[int, int]:
    """Actions that the adapter named in them did not make, and all actions.

    Every recorded frame is put through the named policy again, outside ROS. An action made by a mixture of two
    adapters differs from that of either.

    Args:
        episodes: recorded episodes.
        digests: adapter digest of each frame of an episode.
        policies: a policy for each digest.
    """
    mixed = total = 0
    for episode in episodes:
        for digest in sorted(set(digests(episode))):
            policy = policies[digest]
            rows = np.flatnonzero(np.array(digests(episode)) == digest)
            expected = _actions(policy, episode, rows)
            wrong = np.flatnonzero(np.any(expected != episode.actions[rows], axis=1))
            # In a batch a tie between two bins may fall the other way; alone it is computed as the node did.
            alone = [policy.act(episode.images[rows[i]], episode.instruction).action for i in wrong]
            pairs = zip(alone, wrong, strict=True)
            mixed += sum(not np.array_equal(action, episode.actions[rows[i]]) for action, i in pairs)
            total += len(rows)
    return mixed, total


def by_situation(plan: Plan, side: Side) -> dict[str, Rate]:
    """Success rate of every situation of the plan, for the report's plot."""
    names = sorted({job.situation for job in plan.jobs()}, key=lambda name: (name not in RETAIN, name))
    return {name: tsr(side.outcomes([name])) for name in names}


def violations_by_situation(plan: Plan, side: Side) -> dict[str, Rate]:
    """SVR of every situation of the plan."""
    names = sorted({job.situation for job in plan.jobs()}, key=lambda name: (name not in RETAIN, name))
    return {name: svr(side.outcomes([name])) for name in names}


def _actions(policy: VlaPolicy, episode: Episode, rows: np.ndarray | None = None) -> np.ndarray:
    images = episode.images if rows is None else episode.images[rows]
    found = []
    for start in range(0, len(images), _CHUNK):
        part = images[start : start + _CHUNK]
        found += [p.action for p in policy.act_batch(part, [episode.instruction] * len(part))]
    return np.array(found, dtype=np.float32).reshape(len(images), -1)


def _share(name: str, rate: Rate | None) -> list[Figure]:
    return [] if rate is None else [percent(name, rate)]
