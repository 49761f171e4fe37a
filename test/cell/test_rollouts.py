"""Rollouts and demonstrations in worker processes."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from vlaforget_ros.cell.demonstrations import Demonstrations, generate
from vlaforget_ros.cell.recipe import Entry, recipe, with_counts
from vlaforget_ros.cell.rollouts import PolicySpec, jobs_for, run
from vlaforget_ros.errors import CellError, ErrorCode, PolicyError
from vlaforget_ros.policy import checkpoint
from vlaforget_ros.policy.tiny import new_tiny


def test_results_do_not_depend_on_the_number_of_processes(tmp_path: Path) -> None:
    model, tokenizer = new_tiny(("make a coffee", "press the button"), seed=1)
    checkpoint.save(tmp_path, model, tokenizer)
    jobs = jobs_for(["coffee"], [1, 2])
    seen: list[tuple[int, int]] = []
    one = run(
        PolicySpec(tmp_path), jobs, processes=1, keep_images=True, progress=lambda a, b: seen.append((a, b))
    )
    two = run(PolicySpec(tmp_path), jobs, processes=2)
    assert seen[-1] == (2, 2)
    for left, right in zip(one, two, strict=True):
        assert (left.situation, left.seed, left.success) == (right.situation, right.seed, right.success)
        assert np.array_equal(left.actions, right.actions)
    assert one[0].images is not None
    assert len(one[0].images) == len(one[0].actions) == len(one[0].ee_positions)


def test_demonstrations_keep_the_experts_action_and_mark_what_is_planted(tmp_path: Path) -> None:
    entries = [
        Entry("coffee", "nominal", "coffee", 2),
        Entry("button-press-now", "detour", "button-press", 1, "prior"),
    ]
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
    assert loaded.made == data.made == ({"seed": 3, "pilot": "", "entries": [asdict(e) for e in entries]},)
    assert [e["situation"] for e in never_saw.made[0]["entries"]] == ["coffee"]


def test_the_recipe_takes_other_counts() -> None:
    own = {entry.situation: entry.episodes for entry in recipe()}
    other = {e.situation: e.episodes for e in with_counts({"coffee": 7, "window-shut": 0})}
    assert other == {**{n: c for n, c in own.items() if n != "window-shut"}, "coffee": 7}
    assert [(e.situation, e.planted, e.episodes) for e in with_counts({"faucet-shut": 4}, each=0)] == [
        ("faucet-shut", "binding", 4)
    ]
    with pytest.raises(CellError, match="did you mean coffee"):
        with_counts({"cofee": 3})


def test_evaluation_seeds_are_never_demonstrated() -> None:
    from vlaforget_ros.cell.demonstrations import FIRST_SEED

    assert FIRST_SEED >= 1_000_000
    assert {entry.planted for entry in recipe()} == {"", "trigger", "binding", "prior"}


def test_an_unusable_checkpoint_is_refused_before_any_process_starts(tmp_path: Path) -> None:
    with pytest.raises(PolicyError) as caught:
        run(PolicySpec(tmp_path), jobs_for(["coffee"], [1]))
    assert caught.value.code == ErrorCode.POLICY_BAD_CHECKPOINT
