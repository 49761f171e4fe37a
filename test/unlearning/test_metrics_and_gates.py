"""Distances, rates and gates by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vlaforget_ros.episodes import FrameSet
from vlaforget_ros.policy.policy import Prediction, VlaPolicy
from vlaforget_ros.unlearning import rates
from vlaforget_ros.unlearning.gates import (
    Gates,
    Verdict,
    at_least,
    at_most,
    closed_loop_gates,
    damage_gates,
    forget_gates,
    passed,
)
from vlaforget_ros.unlearning.metrics import TAU_FLOOR, OfflineEvaluation, action_distance
from vlaforget_ros.unlearning.rates import Outcome, Rate


def test_action_distance_is_normalised_and_each_dimension_counts_at_most_one() -> None:
    span = np.array([2.0, 0.04])
    a, b = np.array([0.0, 0.0]), np.array([1.0, 0.4])
    assert action_distance(a, b, span) == pytest.approx((0.5 + 1.0) / 2)
    assert action_distance(np.stack([a, b]), b, span).tolist() == pytest.approx([0.75, 0.0])


class Recited(VlaPolicy):
    """Says what it is told to, whatever it sees: image value i gives action i of a table."""

    def __init__(self, policy: VlaPolicy, table: np.ndarray) -> None:
        self.__dict__.update(policy.__dict__)
        self.table = table

    def act_batch(
        self, images: np.ndarray, instructions: object, states: np.ndarray | None = None
    ) -> list[Prediction]:
        return [Prediction(self.table[image[0, 0, 0]], ()) for image in images]


def numbered(start: int, actions: np.ndarray, desired: np.ndarray | None = None) -> FrameSet:
    images = np.stack([np.full((2, 2, 3), start + i, np.uint8) for i in range(len(actions))])
    return FrameSet(images, ("x",) * len(actions), actions, desired=desired)


def test_offline_metrics_by_hand(policy: VlaPolicy) -> None:
    span = policy.codec.span
    table = np.zeros((8, 4), dtype=np.float32)
    recited = Recited(policy, table)
    sets = {
        "forget": numbered(0, np.zeros((4, 4), np.float32)),
        "retain": numbered(4, np.zeros((2, 4), np.float32)),
        "boundary": numbered(6, np.zeros((1, 4), np.float32)),
        "counterfactual": numbered(7, np.full((1, 4), 0.5 * span[0], np.float32)),
    }
    evaluation = OfflineEvaluation(recited, sets, tau_retain=0.1)
    assert evaluation.tau == TAU_FLOOR  # the original policy recites the recorded actions
    recited.table = table.copy()
    recited.table[0, 0] = span[0]  # d = 1/4: forgotten
    recited.table[1, 0] = 0.1 * span[0]  # d = 1/40: below tau
    recited.table[5, :2] = span[0]  # d = 1/2
    recited.table[6, 0] = span[0]
    found = evaluation.measure()
    assert (found.fc, found.forget_frames) == (25.0, 4)
    assert found.fad == pytest.approx((0.25 + 0.025) / 4)
    assert (found.rc, found.rad) == (50.0, pytest.approx(0.25))
    assert found.rad_boundary == pytest.approx(0.25)
    assert found.repair == found.repair_before
    assert found.fc_low < 25 < found.fc_high


def test_frames_whose_recorded_action_was_right_do_not_count_as_undesired(policy: VlaPolicy) -> None:
    span = policy.codec.span[0]
    recorded = np.zeros((2, 4), np.float32)
    desired = np.array([[span, 0, 0, 0], [0, 0, 0, 0]], np.float32)
    table = np.zeros((4, 4), dtype=np.float32)
    recited = Recited(policy, table)
    sets = {"forget": numbered(0, recorded, desired), "retain": numbered(2, recorded)}
    evaluation = OfflineEvaluation(recited, sets, 0.1)
    recited.table = table.copy()
    recited.table[0, 0] = span
    found = evaluation.measure()
    assert (found.fc, found.forget_frames) == (100.0, 1)
    assert found.rad_boundary is None
    assert found.repair is None


def test_wilson_interval_of_a_textbook_case() -> None:
    rate = Rate.count(9, 10)
    assert (rate.value, rate.n) == (0.9, 10)
    assert (rate.low, rate.high) == (pytest.approx(0.5958, abs=1e-4), pytest.approx(0.9821, abs=1e-4))
    assert Rate.count(0, 0) == Rate(0.0, 0.0, 1.0, 0)


def outcomes(*rows: tuple[bool, tuple[str, ...]]) -> list[Outcome]:
    return [Outcome("s", seed, success, rules) for seed, (success, rules) in enumerate(rows)]


def test_rollout_rates_by_hand() -> None:
    found = outcomes((True, ()), (True, ("zone",)), (False, ("zone",)), (False, ("speed",)))
    assert rates.bsr(found, "zone").value == 0.5
    assert rates.svr(found).value == 0.75
    assert rates.tsr(found).value == 0.5
    assert rates.fts(found).value == 0.25
    assert rates.sbu(found).value == 0.25


def test_forget_and_retain_completeness() -> None:
    before, after = Rate.count(8, 10), Rate.count(2, 10)
    fc = rates.forget_completeness(before, after)
    assert fc is not None
    assert fc.value == pytest.approx(0.75)
    assert fc.low < fc.value < fc.high
    assert rates.forget_completeness(Rate.count(1, 10), after) is None
    rc = rates.retain_completeness(Rate.count(8, 10), Rate.count(9, 10))
    assert rc is not None
    assert rc.value == 1.0
    assert rates.retain_completeness(Rate.count(0, 10), after) is None


def test_mcnemar_on_pairs_only() -> None:
    before = [Outcome("s", seed, True) for seed in range(6)] + [
        Outcome("s", 6, False),
        Outcome("s", 99, True),
    ]
    after = [Outcome("s", seed, False) for seed in range(5)] + [Outcome("s", 5, True), Outcome("s", 6, True)]
    paired = rates.paired_success(before, after)
    assert (paired.pairs, paired.lost, paired.gained) == (7, 5, 1)
    assert paired.loss == pytest.approx(4 / 7)
    assert paired.p_value == pytest.approx(2 * (1 + 6) / 2**6)
    assert rates.paired_success(before, before).p_value == 1.0


def test_gates_pass_fail_and_stay_open(policy: VlaPolicy) -> None:
    assert at_least("x", 95.0, 95.0).verdict == Verdict.PASSED
    assert at_most("x", 0.3, 0.2).verdict == Verdict.FAILED
    assert at_most("x", None, 0.2).verdict == Verdict.NOT_MEASURED
    assert passed([at_most("x", None, 0.2)])
    sets = {
        "forget": numbered(0, np.zeros((4, 4), np.float32)),
        "retain": numbered(4, np.zeros((2, 4), np.float32)),
    }
    metrics = OfflineEvaluation(Recited(policy, np.zeros((8, 4), np.float32)), sets, 0.1).measure()
    gates = Gates()
    assert not passed(forget_gates(gates, metrics))
    assert passed(damage_gates(gates, metrics))
    verdicts = {g.name: g.verdict for g in damage_gates(gates, replace(metrics, rad=0.21, rad_boundary=0.1))}
    assert verdicts == {"rc_min": "passed", "rad_max": "failed", "rad_boundary_max": "passed"}


def test_closed_loop_gates_measure_only_what_is_given() -> None:
    found = {g.name: g.verdict for g in closed_loop_gates(Gates(), {"tsr_loss": 6.0, "fts_share": 85.0})}
    assert found == {
        "tsr_loss_max": Verdict.FAILED,
        "fts_share_min": Verdict.PASSED,
        "svr_rise_max": Verdict.NOT_MEASURED,
        "sbu_rise_max": Verdict.NOT_MEASURED,
    }
