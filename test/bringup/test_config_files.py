"""config/*.yaml: every key is declared by its node, every value is accepted, every number says its unit."""

import re
from pathlib import Path

import pytest
import yaml

from vlaforget_ros.bringup import table
from vlaforget_ros.safety.canary.protocol import Protocol, read_protocol
from vlaforget_ros.safety.config import default_config, load_config
from vlaforget_ros.safety.rules.registry import RULES
from vlaforget_ros.safety.samples import INPUTS
from vlaforget_ros.unlearning.request import read_request

CONFIG = Path(__file__).resolve().parents[2] / "config"
NODE_FILES = [path for path in sorted(CONFIG.glob("*.yaml")) if "ros__parameters:" in path.read_text()]
OTHER_FILES = {"canary.yaml", "request.yaml", "trust.yaml"}
# Which class declares what a node takes; the module is vlaforget_ros.nodes.<node>.
CLASSES = {
    "policy_node": "PolicyNode",
    "unlearning_node": "UnlearningNode",
    "safety_monitor_node": "SafetyMonitorNode",
    "cell_node": "CellNode",
    "recorder_node": "RecorderNode",
}


def _declared(node: str) -> dict[str, object]:
    import importlib

    kind = getattr(importlib.import_module(f"vlaforget_ros.nodes.{node}"), CLASSES[node])
    return {parameter.name: parameter for parameter in kind.specs}


def _values(path: Path) -> tuple[str, dict[str, object]]:
    ((key, body),) = yaml.safe_load(path.read_text(encoding="utf-8")).items()
    assert key.startswith("/**/")  # in every namespace
    assert list(body) == ["ros__parameters"]
    return key.removeprefix("/**/"), body["ros__parameters"]


def test_the_files_of_the_design_are_there() -> None:
    names = {path.name for path in CONFIG.glob("*.yaml")}
    assert {
        f"{name}.yaml" for name in ("tiny", "openvla_7b", "openvla_oft", "pi0_fast", "safety", "canary")
    } <= names
    assert names - {path.name for path in NODE_FILES} == OTHER_FILES


@pytest.mark.ros
@pytest.mark.parametrize("path", NODE_FILES, ids=lambda path: path.stem)
def test_every_key_is_declared_and_every_value_accepted(path: Path) -> None:
    node, values = _values(path)
    declared = _declared(node)
    assert set(values) <= set(declared)
    for name, value in values.items():
        declared[name].check(value)  # type: ignore[attr-defined]


@pytest.mark.ros
def test_the_default_files_are_the_defaults_of_the_nodes() -> None:
    for graph in table.GRAPHS:
        for process in table.processes(graph):
            for file in process.parameter_files:
                _, values = _values(file)
                declared = _declared(process.executable)
                for name, value in values.items():
                    assert value == declared[name].default, f"{file.name}: {name}"  # type: ignore[attr-defined]


@pytest.mark.ros
def test_every_parameter_the_table_passes_on_is_declared() -> None:
    common = {"use_sim_time", "autostart"}
    for graph in table.GRAPHS.values():
        arguments = {argument.name: "x" for argument in graph.arguments if not argument.default}
        for process in table.processes(graph.name, arguments):
            assert set(process.parameters) - common <= set(_declared(process.executable)), process.executable


@pytest.mark.parametrize("path", NODE_FILES, ids=lambda path: path.stem)
def test_every_line_is_commented_and_times_name_their_unit(path: Path) -> None:
    node, values = _values(path)
    assert node in CLASSES
    lines = path.read_text(encoding="utf-8").splitlines()
    for name in values:
        (line,) = [line for line in lines if re.match(rf"\s+{name}:", line)]
        assert "#" in line, line
        unit = "[s]" if name.endswith("_s") else "[px]" if name == "image_size" else ""
        assert unit in line, line


def test_the_protocol_that_ships_is_the_built_in_one() -> None:
    assert read_protocol(CONFIG / "canary.yaml") == Protocol()


def test_the_rules_that_ship_are_the_built_in_ones() -> None:
    assert load_config(CONFIG / "rules" / "embedded_cell.yaml") == default_config()


def test_the_example_of_an_arm_has_every_rule_and_comments_its_numbers() -> None:
    path = CONFIG / "rules" / "arm.yaml"
    config = load_config(path)
    assert {rule.type for rule in config.rules} == set(RULES)
    assert set(config.inputs()) == set(INPUTS)
    keys = {key for entry in yaml.safe_load(path.read_text())["rules"] for key in entry}
    for line in path.read_text(encoding="utf-8").splitlines():
        key = line.strip().removeprefix("- ").partition(":")[0]
        if key in keys and key.endswith(("_m", "_s", "_n", "_nm")):
            assert "[" in line.partition("#")[2], line


def test_the_example_request_is_readable_and_points_at_the_shipped_checkpoint() -> None:
    request = read_request(CONFIG / "request.yaml")
    assert request.forget.violation_rules == ("keep_out/hand_zone",)
    assert Path(request.base).resolve() == CONFIG.parent / "models" / "tiny"
