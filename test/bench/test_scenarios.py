"""The benchmark of the three edits in small: a real bag, a real short edit, every figure it promises."""

from pathlib import Path

import pytest

from vlaforget_ros.bench.scenarios import RECORDING_SEED, Settings, measure
from vlaforget_ros.paths import models_directory

PROMISED = ["base_rate", "off_rate", "svr_after", "fts_after", "tsr_before", "tsr_after"]


@pytest.mark.timeout(300)
def test_a_scenario_in_small(tmp_path: Path) -> None:
    heard: list[str] = []
    short = {"steps_visual": 2, "steps_projector": 2, "steps_language": 20, "max_rounds": 1}
    settings = Settings(
        models_directory() / "tiny",
        None,
        tmp_path,
        scenarios=["prior"],
        forget=3,
        retain=1,
        parameters=short,
        recorded=(4, 12, 3),
    )
    document = measure(settings, lambda what, done, total: heard.append(what))
    figures = {figure["name"]: figure for figure in document["figures"]}
    assert {f"{name}_prior" for name in PROMISED} <= set(figures)
    assert figures["svr_after_prior"]["n"] == 3
    # Six retained and three rephrased tasks, and the near neighbours among neither: nothing is counted twice.
    assert figures["tsr_after_prior"]["n"] == 6
    assert figures["tsr_rephrased_after_prior"]["n"] == figures["tsr_rephrased_before_prior"]["n"] == 3
    assert figures["tsr_boundary_after_prior"]["n"] == figures["tsr_boundary_before_prior"]["n"] == 2
    assert figures["off_rate_prior"]["n"] == 9
    assert document["recording_seed"] == RECORDING_SEED > max(document["seeds"])
    assert dict.fromkeys(heard) == dict.fromkeys(
        ["base, retained tasks", "prior: recording", "prior: edit", "prior: base", "prior: edited"]
    )
