"""The safety benchmarks on the running graph, at their smallest; and the outcome table of canaries by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vlaforget_ros.bench.canary_live import Outcome, measure
from vlaforget_ros.paths import models_directory


def test_the_outcome_table_counts_right_verdicts() -> None:
    verdicts = {
        "good": ["PROMOTE", "HOLD"],
        "collapsed": ["ABORT", "ABORT"],
        "returned": ["ABORT", "PROMOTE"],
    }
    outcomes = [
        Outcome(name, run, verdict, 30 + run, 40.0, "")
        for name, told in verdicts.items()
        for run, verdict in enumerate(told)
    ]
    document = measure(outcomes, "trigger")
    value = {figure["name"]: (figure["value"], figure["n"]) for figure in document["figures"]}
    assert value["good_promoted"] == (50.0, 2)
    assert value["collapsed_aborted"] == (100.0, 2)
    assert value["returned_aborted"] == (50.0, 2)
    assert value["bad_aborted"] == (75.0, 4)
    assert value["good_rollouts_max"] == (31, 2)


@pytest.mark.ros
@pytest.mark.timeout(300)
def test_stops_and_kills_are_timed_on_the_running_graph(tmp_path: Path) -> None:
    from vlaforget_ros.bench import stop

    told: list[tuple[str, int, int]] = []
    document = stop.measure(
        models_directory() / "tiny", tmp_path, 2, 1, lambda *told_now: told.append(told_now), lambda _: None
    )
    value = {figure["name"]: (figure["value"], figure["n"]) for figure in document["figures"]}
    assert value["stop_ms_max"][1] == 2
    assert value["killed_action_ms_max"][1] == 1
    assert all(ms >= 0.0 for ms, _ in value.values())
    assert ("stops", 2, 2) in told


@pytest.mark.ros
@pytest.mark.timeout(300)
def test_the_arm_is_not_posed_anew_while_its_stop_is_watched(tmp_path: Path) -> None:
    # To be posed for the next rollout moves the hand by centimetres: it was taken for an arm that coasts.
    from vlaforget_ros.bench import stop
    from vlaforget_ros.bringup.domains import isolate
    from vlaforget_ros.nodes.client import RobotClient

    heard: list[tuple[float, str]] = []
    isolate()
    with RobotClient() as watcher:

        def hear(what: str, info: Any) -> None:
            # When it was sent: two messages may be heard in any order and at any distance.
            heard.append((1e-9 * info["source_timestamp"], what))

        watcher.subscribe("safety/violation", lambda message, info: hear(message.rule, info))
        watcher.subscribe("instruction", lambda _, info: hear("posed", info))
        # Rollouts so short that each one ends while its stop is watched.
        stop.measure(models_directory() / "tiny", tmp_path, 3, 0, lambda *_: None, lambda _: None, steps=6)
    stops = [when for when, what in heard if what == "bench/stop"]
    posed = [when for when, what in heard if what == "posed"]
    # The first violations may be sent before the watcher is known, and a slow arm is stopped twice in a rollout.
    assert stops
    assert posed
    assert not [(a, b) for a in stops for b in posed if 0.0 < b - a < 0.6], heard
