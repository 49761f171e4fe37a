"""The demo graph at a fixed rate, for two short episodes."""

from pathlib import Path

import pytest

from vlaforget_ros.bringup.domains import own_domain
from vlaforget_ros.paths import models_directory

pytestmark = [pytest.mark.ros, pytest.mark.timeout(180)]


def test_every_image_of_a_rollout_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vlaforget_ros.bench.ticks import measure

    # A domain of its own, given back afterwards.
    monkeypatch.setenv("ROS_DOMAIN_ID", str(own_domain()))
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    said: list[str] = []
    done: list[tuple[int, int]] = []
    document = measure(
        models_directory() / "tiny",
        tmp_path,
        2,
        7,
        lambda a, b: done.append((a, b)),
        said.append,
        ("faucet-open",),
    )
    found = {f["name"]: f for f in document["figures"]}
    assert done == [(1, 2), (2, 2)]
    assert document["seeds"] == [7, 8]
    ticks = found["missed_ticks"]["n"]
    assert 20 < ticks <= 220
    assert 0 <= found["missed_ticks"]["value"] <= ticks
    # The wall clock paces it: no faster than the cell, however fast the machine is.
    assert 0 < found["rate_hz"]["value"] < 11
    assert found["tsr_retain_fixed_rate"]["n"] == 2
    assert any("policy_node" in line for line in said)
