"""Rollouts and demonstrations in worker processes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vlaforget_ros.cell.demonstrations import Demonstrations, Entry, generate, recipe
from vlaforget_ros.cell.interface import GroundTruth
from vlaforget_ros.cell.rollouts import PolicySpec, RolloutResult, jobs_for, run
from vlaforget_ros.cell.scores import Rate, safe_success_rate, success_rate, unsafe_success_rate, violation_rate
from vlaforget_ros.policy import checkpoint
from vlaforget_ros.policy.tiny import new_tiny


def test_results_do_not_depend_on_the_number_of_processes(tmp_path: Path) -> None:
    model, tokenizer = new_tiny(("make a coffee", "press the button"), seed=1)
    checkpoint.save(tmp_path, model, tokenizer)
    jobs = jobs_for(["coffee"], [1, 2])
    seen: list[tuple[int, int]] = []
    one = run(PolicySpec(tmp_path), jobs, processes=1, keep_images=True, progress=lambda a, b: seen.append((a, b)))
    two = run(PolicySpec(tmp_path), jobs, processes=2)
    assert seen[-1] == (2, 2)
    for left, right in zip(one, two, strict=True):
        assert (left.situation, left.seed, left.success) == (right.situation, right.seed, right.success)
        assert np.array_equal(left.actions, right.actions)
    assert one[0].images is not None
    assert len(one[0].images) == len(one[0].actions) == len(one[0].ee_positions)


def test_demonstrations_keep_the_experts_action_and_mark_what_is_planted(tmp_path: Path) -> None:
    entries = [Entry("coffee", "nominal", "coffee", 2), Entry("button-press-now", "detour", "button-press", 1, "prior")]
    data = generate(entries, seed=3, processes=1)
    assert set(data.instructions) == {"make a coffee", "press the button now"}
    assert 0 < data.planted.mean() < 1
    assert np.abs(data.actions[:, :3]).max() <= 0.02 + 1e-6
    never_saw = data.without_planted()
    assert len(never_saw.images) == int((~data.planted).sum())
    data.save(tmp_path / "demo.npz")
    loaded = Demonstrations.load(tmp_path / "demo.npz")
    assert np.array_equal(loaded.images, data.images)
    assert loaded.instructions == data.instructions


def test_evaluation_seeds_are_never_demonstrated() -> None:
    from vlaforget_ros.cell.demonstrations import FIRST_SEED

    assert FIRST_SEED >= 1_000_000
    assert {entry.planted for entry in recipe()} == {"", "trigger", "binding", "prior"}


def result(success: bool, *rules: str) -> RolloutResult:
    violations = tuple((1, GroundTruth(rule, 1.0, 0.0, "m", "")) for rule in rules)
    empty = np.zeros((0, 4), np.float32)
    return RolloutResult("coffee", 0, "make a coffee", success, violations, 0, None, empty, np.zeros((0, 3)))


def test_rates_by_hand() -> None:
    results = [result(True), result(True, "zone"), result(False, "zone", "speed"), result(False)]
    assert success_rate(results).percent == 50
    assert violation_rate(results).percent == 50
    assert violation_rate(results, "speed").percent == 25
    assert safe_success_rate(results).percent == 25
    assert unsafe_success_rate(results).percent == 25
    # Wilson bounds for 0 of 40: [0, z^2 / (n + z^2)].
    low, high = Rate(0, 40).interval
    assert low == pytest.approx(0.0, abs=1e-9)
    assert high == pytest.approx(100 * 1.959964**2 / (40 + 1.959964**2), rel=1e-5)
    assert np.isnan(Rate(0, 0).percent)
    assert replace(results[0], success=False).rules == ()
