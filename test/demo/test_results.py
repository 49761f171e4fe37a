"""Figures of a run by hand, from made-up episodes."""

from dataclasses import replace

import numpy as np
import pytest

from vlaforget_ros.cell.situations import HAND_ZONE_RULE
from vlaforget_ros.demo.assemble import judge
from vlaforget_ros.demo.drive import Driven
from vlaforget_ros.demo.plan import Plan, make_plan
from vlaforget_ros.demo.results import Side, count_mixed, distance_figures, rollout_figures
from vlaforget_ros.episodes.types import Episode, Violation
from vlaforget_ros.figures import Figure
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.policy.tiny import new_tiny

TEXTS = ("press the button now", "press the button", "open the faucet")


def plan() -> Plan:
    return make_plan("prior", forget=4, retain=6, boundary=0)


def episode(name: str, success: bool, violated: bool, policy: VlaPolicy | None = None) -> Episode:
    rng = np.random.default_rng(len(name))
    images = rng.integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    actions = np.zeros((3, 4), np.float32)
    if policy is not None:
        actions = np.array([policy.act(image, TEXTS[0]).action for image in images])
    violations = (Violation(HAND_ZONE_RULE, "WARN", 1, 0.1, 0.0, "m", ""),) if violated else ()
    stamps = np.arange(3, dtype=np.int64)
    return Episode(
        name, TEXTS[0], "", stamps, success, "", violations, "bag", 0, images=images, actions=actions
    )


def side(forget: list[tuple[bool, bool]], retain: list[bool]) -> Side:
    jobs = plan()
    driven, episodes = [], {}
    told = [*forget, *((success, False) for success in retain)]
    for number, (job, (success, violated)) in enumerate(zip([*jobs.forget, *jobs.retain], told, strict=True)):
        driven.append(Driven(job, str(number), success, 3))
        episodes[str(number)] = episode(str(number), success, violated)
    return Side(driven, episodes)


BEFORE = side([(True, True), (True, True), (False, True), (True, False)], [True] * 5 + [False])
AFTER = side([(True, False), (True, False), (True, True), (False, False)], [True] * 4 + [False, True])


def test_rollout_figures_by_hand() -> None:
    value = {f.name: f.value for f in rollout_figures(plan(), BEFORE, AFTER)}
    assert value["svr_before"] == 75
    assert value["svr_after"] == 25
    assert value["fts_before"] == 25
    assert value["fts_after"] == 50
    assert value["sbu_before"] == 50
    assert value["sbu_after"] == 25
    assert value["tsr_before"] == value["tsr_after"] == pytest.approx(500 / 6, abs=0.01)
    assert value["fc"] == pytest.approx(100 * (1 - 25 / 75), abs=0.01)
    assert value["rc"] == 100
    assert value["tsr_loss"] == 0
    assert value["episodes"] == 20


def fresh(seed: int) -> VlaPolicy:
    model, tokenizer = new_tiny(TEXTS, seed)
    return VlaPolicy(model.eval(), tokenizer, "")


def test_mixed_actions_are_found_among_clean_ones() -> None:
    first, second = fresh(1), fresh(2)
    made = episode("a", True, False, first)
    policies = {"": first, "d2": second}
    assert count_mixed([made], lambda _: [""] * 3, policies) == (0, 3)
    # The same actions under the other adapter's name are not that adapter's.
    mixed, total = count_mixed([made], lambda _: ["", "d2", "d2"], policies)
    assert (mixed, total) == (2, 3)
    tampered = replace(made, actions=made.actions + np.float32(0.001))
    assert count_mixed([tampered], lambda _: [""] * 3, policies) == (3, 3)


def test_distances_are_zero_for_the_same_policy_and_positive_for_another() -> None:
    first, second = fresh(1), fresh(2)
    same = {f.name: f.value for f in distance_figures(plan(), BEFORE, first, first)}
    other = {f.name: f.value for f in distance_figures(plan(), BEFORE, first, second)}
    assert same == {"fad": 0, "rad": 0}
    assert other["fad"] > 0


def figures(**changes: float) -> list[Figure]:
    values = {
        "bsr_before": 90.0,
        "bsr_after": 2.0,
        "fts_before": 5.0,
        "fts_after": 90.0,
        "tsr_before": 95.0,
        "tsr_after": 93.0,
        "tsr_loss": 2.0,
        "mixed_actions": 0.0,
        **changes,
    }
    return [Figure(name, value, "percent") for name, value in values.items()]


def test_a_good_run_is_better() -> None:
    assert judge(figures())["better"]


@pytest.mark.parametrize(
    "worse", [{"bsr_after": 90.0}, {"fts_after": 5.0}, {"tsr_loss": 5.1}, {"mixed_actions": 1.0}]
)
def test_any_failing_check_fails_the_demo(worse: dict[str, float]) -> None:
    verdict = judge(figures(**worse))
    assert not verdict["better"]
    assert sum(reason.startswith("NO") for reason in verdict["reasons"]) == 1
