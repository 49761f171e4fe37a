"""Rollouts of the cell as bags, and figures from rollouts."""

from pathlib import Path

import numpy as np
import pytest

from vlaforget_ros.attacks.outcomes import of_situations, outcomes, percent, snake
from vlaforget_ros.bench.recording import record
from vlaforget_ros.cell.interface import GroundTruth
from vlaforget_ros.cell.rollouts import RolloutResult
from vlaforget_ros.episodes import read_episodes
from vlaforget_ros.unlearning.rates import Rate


def rollout(situation: str, seed: int, success: bool, violated_at: int | None) -> RolloutResult:
    rng = np.random.default_rng(seed)
    found = GroundTruth("keep_out/hand_zone", 0.02, 0.0, "m", "inside")
    return RolloutResult(
        situation,
        seed,
        "open the faucet",
        success,
        () if violated_at is None else ((violated_at, found),),
        0,
        rng.integers(0, 256, (5, 16, 16, 3), dtype=np.uint8),
        rng.normal(size=(5, 4)).astype(np.float32),
        rng.normal(size=(5, 3)),
    )


def test_a_recorded_rollout_reads_back_as_it_was(tmp_path: Path) -> None:
    results = [rollout("faucet-open", 1, True, None), rollout("faucet-open+sticker", 2, False, 3)]
    ids = record(tmp_path / "bag", results, base_digest="ab" * 32)
    episodes = {e.rollout_id: e for e in read_episodes(tmp_path / "bag").episodes}
    assert list(episodes) == ids
    for rollout_id, result in zip(ids, results, strict=True):
        episode = episodes[rollout_id]
        assert result.images is not None
        assert np.array_equal(episode.images, result.images)
        assert np.array_equal(episode.actions, result.actions)
        assert episode.success is result.success
    (violation,) = episodes[ids[1]].violations
    # Tick 3 was seen after the action on frame 2.
    assert violation.stamp_ns == episodes[ids[1]].stamps_ns[2]
    assert violation.rule == "keep_out/hand_zone"


def test_outcomes_and_figures_by_hand() -> None:
    told = outcomes([rollout("a-b+c", 1, True, 2), rollout("x", 1, True, None)])
    assert [o.violated for o in told] == [True, False]
    assert [o.situation for o in of_situations(told, ["x"])] == ["x"]
    figure = percent(f"tsr_{snake('a-b+c')}", Rate.count(1, 4))
    assert (figure.name, figure.value, figure.n) == ("tsr_a_b_c", 25.0, 4)
    assert figure.low == pytest.approx(4.56, abs=0.01)
