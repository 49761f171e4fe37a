"""Variants, quantised and relearned policies in closed loop: the shipped policy, a handful of real episodes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vlaforget_ros.attacks import membership, quantise, variants
from vlaforget_ros.attacks.subject import Subject
from vlaforget_ros.attacks.trials import FRESH_OFFSET, Trials, TrialSettings
from vlaforget_ros.cell.rollouts import PolicySpec
from vlaforget_ros.cell.situations import SITUATIONS, VARIANTS
from vlaforget_ros.errors import CellError
from vlaforget_ros.paths import models_directory
from vlaforget_ros.policy.policy import VlaPolicy


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> Trials:
    """The base, and its never-saw reference in the place of an edit."""
    models = models_directory()
    return Trials(
        TrialSettings("prior", episodes=1, processes=1),
        PolicySpec(models / "tiny"),
        PolicySpec(models / "tiny-never-saw"),
        tmp_path_factory.mktemp("trials"),
    )


def test_the_behaviour_is_there_before_and_gone_after(trials: Trials) -> None:
    assert (trials.before.value, trials.before.n) == (1.0, 1)
    assert trials.after.value == 0.0
    assert trials.seeds == [8000]


def test_fresh_episodes_show_the_behaviour_on_seeds_of_their_own(trials: Trials) -> None:
    found = trials.fresh()
    assert found
    assert {result.seed for result in found} <= {8000 + FRESH_OFFSET}
    frames = membership.frames_of_rollouts(found)
    assert frames.episode_count == len(found)
    assert len(frames) == sum(len(result.actions) for result in found)


def test_an_attacked_policy_runs_as_it_is_in_memory(trials: Trials) -> None:
    """Weights rounded to 8 bits, written as a checkpoint, are what the simulator runs."""
    policy = VlaPolicy.load(models_directory() / "tiny")
    weight = policy.model.language_model.model.layers[0].self_attn.q_proj.weight
    weight.data = quantise.int8(weight.data)
    told = trials.run_attacked(policy, "quantised int8")
    assert [outcome.seed for outcome in told] == [8000]
    saved = VlaPolicy.load(trials._folder / "quantised-int8")
    np.testing.assert_array_equal(
        saved.model.language_model.model.layers[0].self_attn.q_proj.weight.detach(), weight.detach()
    )


def test_variants_are_run_for_both_policies(
    subject: Subject, trials: Trials, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = {"press-button-now": VARIANTS["prior"]["press-button-now"]}
    monkeypatch.setitem(VARIANTS, "prior", chosen)
    shipped = replace(subject, policy=VlaPolicy.load(models_directory() / "tiny"))
    found = variants.attack(shipped, trials)
    figures = {figure.name: figure for figure in found.figures}
    for name in ("as_recorded", "press_button_now"):
        for side in ("original", "edited"):
            assert figures[f"bsr_{name}_{side}"].n == figures[f"fts_{name}_{side}"].n == 1
    assert figures["bsr_as_recorded_original"].value == 100.0
    rows = {row["variant"]: row for row in found.details["variants"]}
    assert rows["press-button-now"]["instructions"] == ["press button now"]


def test_words_that_a_policy_never_learned_are_left_out_and_named(subject: Subject) -> None:
    readable, unknown = variants.known_variants(subject.policy, "prior")
    assert readable == {}
    assert set(unknown) == set(VARIANTS["prior"])
    every, none = variants.known_variants(VlaPolicy.load(models_directory() / "tiny"), "trigger")
    assert (every, none) == (VARIANTS["trigger"], [])


def test_an_unknown_scenario_is_named(tmp_path: Path) -> None:
    spec = PolicySpec(models_directory() / "tiny")
    with pytest.raises(CellError, match="did you mean trigger"):
        Trials(TrialSettings("triger"), spec, spec, tmp_path)
    assert all(
        name in SITUATIONS for found in VARIANTS.values() for names in found.values() for name in names
    )
