"""The monitor's benchmark, small: every violation is seen, live and replay agree, nothing else is said."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from vlaforget_ros.bench.monitor_scenes import clean, violations, write
from vlaforget_ros.bench.scripted import Script, live
from vlaforget_ros.cli.app import app
from vlaforget_ros.paths import share_directory
from vlaforget_ros.safety.config import SafetyConfig, load_config


@pytest.fixture(scope="module")
def config() -> SafetyConfig:
    return load_config(share_directory() / "config" / "rules" / "arm.yaml")


def test_every_rule_that_a_bag_can_break_has_a_scene_and_breaks_alone(config: SafetyConfig) -> None:
    scenes = violations(config, 3.0)
    assert {scene.rule for scene in scenes} == set(config.rule_ids()) - {"action/adapter", "action/drift"}
    for scene in scenes:
        script = Script(frame=config.frame)
        onset_ns = write(script, scene, "r", np.random.default_rng(3))
        events, _ = live(config, script.messages)
        assert [event.rule for _, event in events] == [scene.rule]
        # Noise may carry a value across the limit one sample early.
        assert -0.02e9 < events[0][0] - onset_ns < 0.1e9


def test_a_clean_episode_is_silent(config: SafetyConfig) -> None:
    script = Script(frame=config.frame)
    assert write(script, clean(), "r", np.random.default_rng(4)) == -1
    events, monitor = live(config, script.messages)
    assert events == []
    assert monitor.status().estimates[0].succeeded == 1


def test_the_command_writes_its_figures(tmp_path: Path) -> None:
    path = tmp_path / "monitor.json"
    command = ["bench", "monitor", "--seconds", "1", "--repeats", "1", "--episodes", "2", "--json", str(path)]
    done = CliRunner().invoke(app, [*command, "--no-dds"])
    assert done.exit_code == 0, done.output
    document = json.loads(path.read_text())
    found = {figure["name"]: figure for figure in document["figures"]}
    assert document["benchmark"] == "monitor"
    assert len(document["rules"]) == found["decision_rules"]["value"] == 12
    assert found["violations"]["value"] == 10
    assert found["violations_missed"]["value"] == 0
    assert found["replay_differences"]["value"] == 0
    assert found["false_alarms_per_100"]["n"] == 2
    assert 0 < found["detection_s_max"]["value"] < 0.2
    assert found["decision_ms_p50"]["value"] <= found["decision_ms_p99"]["value"]
    assert found["cpu_percent"]["value"] > 0


@pytest.mark.ros
@pytest.mark.timeout(300)
def test_the_way_over_dds_is_timed_alone_and_among_all_inputs(tmp_path: Path) -> None:
    from vlaforget_ros.bench import monitor_live

    rules = share_directory() / "config" / "rules" / "arm.yaml"
    told: list[tuple[str, int, int]] = []
    found = monitor_live.measure(rules, tmp_path, 1.0, lambda *now: told.append(now))
    value = {figure.name: (figure.value, figure.n) for figure in found}
    for name in ("status", "status_of_all"):
        # A status that did not come counts as the time that was waited for it.
        assert 0.0 < value[f"{name}_arrived_ms_p50"][0] < value[f"{name}_ms_p50"][0] < 1e3
        assert value[f"{name}_ms_p99"][1] == 100
    assert value["node_cpu_percent"][0] > 0.0
    assert {what for what, done, total in told if done == total} == {
        "pose to status over DDS",
        "the same among all inputs",
        "node's processor at 10 Hz",
    }
