"""Rollbacks in the demo graph at a fixed rate, a few of them."""

from pathlib import Path

import pytest

from vlaforget_ros.bringup.domains import own_domain
from vlaforget_ros.paths import models_directory

pytestmark = [pytest.mark.ros, pytest.mark.timeout(180)]


def test_a_trial_ends_with_the_last_action_of_the_bad_adapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vlaforget_ros.bench.rollback import measure

    # A domain of its own, given back afterwards.
    monkeypatch.setenv("ROS_DOMAIN_ID", str(own_domain()))
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    done: list[tuple[int, int]] = []
    figures = measure(
        models_directory() / "tiny", tmp_path, 3, lambda a, b: done.append((a, b)), lambda text: None
    )
    found = {figure.name: figure for figure in figures}
    assert done == [(1, 3), (2, 3), (3, 3)]
    assert {figure.n for figure in figures} == {3}
    assert 0 <= found["rollback_ms_p50"].value <= found["rollback_ms_p99"].value
    assert found["rollback_ms_p99"].value <= found["rollback_ms_max"].value
