"""The latency beside an edit: a real child trains, and all conditions are measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from lending_parts import sockets
from released_parts import write_released

from vlaforget_ros.bench.beside import Settings, _interval, measure
from vlaforget_ros.errors import UnlearningError
from vlaforget_ros.paths import models_directory
from vlaforget_ros.policy.options import set_options

__all__ = ["sockets"]


def test_alone_and_beside_an_edit_with_two_shares() -> None:
    heard: list[tuple[int, int]] = []
    settings = Settings(models_directory() / "tiny", shares=(1.0, 0.25), ticks=12, turns=1, tick_s=0.2)
    document = measure(settings, lambda done, total: heard.append((done, total)))
    values = {figure["name"]: figure for figure in document["figures"]}
    assert heard == [(1, 3), (2, 3), (3, 3)]
    for name in ("alone", "beside_1", "beside_0_25"):
        assert 0 < values[f"latency_ms_p50_{name}"]["value"] <= values[f"latency_ms_p99_{name}"]["value"]
    ratio = values["p99_beside_1_ratio"]
    assert ratio["value"] == pytest.approx(
        values["latency_ms_p99_beside_1"]["value"] / values["latency_ms_p99_alone"]["value"]
    )
    assert ratio["low"] <= ratio["high"]
    assert values["edit_steps_beside_1"]["value"] > 0, "the edit trained while it was measured"


@pytest.mark.parametrize("own", [False, True])
def test_whether_weights_were_shared_and_what_each_process_holds(
    own: bool, tmp_path: Path, sockets: Path
) -> None:
    write_released(tmp_path / "base")
    set_options(tmp_path / "base", dtype="bfloat16")
    settings = Settings(
        tmp_path / "base", shares=(1.0,), ticks=2, turns=1, tick_s=0.05, share_weights=not own
    )
    document = measure(settings, lambda done, total: None)
    values = {figure["name"]: figure["value"] for figure in document["figures"]}
    assert values["shared_weights"] == (0.0 if own else 1.0)
    assert values["child_private_mb"] > 10
    assert values["policy_private_mb"] > 10
    assert "device_mb" not in values


def test_an_edit_that_does_not_start_is_an_error(tmp_path: Path) -> None:
    with pytest.raises((RuntimeError, UnlearningError), match="does not train"):
        measure(
            Settings(models_directory() / "tiny", shares=(1.0,), ticks=2, turns=1, device="cpu", threads=0),
            print,
        )


def test_the_interval_of_a_ratio_holds_it() -> None:
    rng = np.random.default_rng(0)
    alone, beside = rng.uniform(1, 2, 200), rng.uniform(2, 4, 200)
    low, high = _interval(beside, alone, 50, 0)
    assert low < np.median(beside) / np.median(alone) < high
    assert low > 1.8
    assert high < 2.2
