"""The configuration of diagnostic_aggregator, read and matched as its version 3.2.0 does (src/analyzer_group.cpp,
src/generic_analyzer.cpp, generic_analyzer_base.hpp)."""

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
ANALYZERS = ROOT / "config" / "diagnostics" / "analyzers.yaml"
NODES = ROOT / "vlaforget_ros" / "nodes"
ARMS = ("/", "/arm1", "/hall/arm2", "/canary")
OK, WARN, ERROR, STALE = range(4)

# Parameters of a GenericAnalyzer and the only type that its as_...() takes: 2 for a timeout would end the node.
TYPES = {
    "type": str,
    "path": str,
    "startswith": list,
    "contains": list,
    "regex": list,
    "expected": list,
    "remove_prefix": list,
    "timeout": float,
    "num_items": int,
    "discard_stale": bool,
}


@dataclass
class Generic:
    """What a GenericAnalyzer does with names, levels and ages."""

    settings: Mapping[str, Any]
    heard: dict[str, tuple[int, float]] = field(default_factory=dict)

    def match(self, name: str) -> bool:
        """`expected` does not match: a name that is expected must be caught as well."""
        return (
            any(re.fullmatch(one, name) for one in self.settings.get("regex", []))
            or any(name.startswith(one) for one in self.settings.get("startswith", []))
            or any(one in name for one in self.settings.get("contains", []))
        )

    def level(self, now_s: float) -> int:
        """Of the analyzer, from statuses of :attr:`heard`: (level, when)."""
        items = dict.fromkeys(self.settings.get("expected", []), (STALE, 0.0)) | self.heard
        timeout, discard = self.settings.get("timeout", 5.0), self.settings.get("discard_stale", False)
        old = {name: timeout > 0 and now_s - when > timeout for name, (_, when) in items.items()}
        levels = [
            STALE if old[name] else level for name, (level, _) in items.items() if not (discard and old[name])
        ]
        if all(level == STALE for level in levels):
            return OK if discard else STALE
        return ERROR if STALE in levels else max(levels)


def _parameters() -> dict[str, Any]:
    # The aggregator's node is called `analyzers`; parameters of a group are below its `analyzers`.
    document = yaml.safe_load(ANALYZERS.read_text(encoding="utf-8"))
    found = document["analyzers"]["ros__parameters"]
    assert isinstance(found, dict)
    return found


def _generics(analyzers: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for settings in analyzers.values():
        if settings["type"] == "diagnostic_aggregator/AnalyzerGroup":
            assert set(settings) == {"type", "path", "analyzers"}
            yield from _generics(settings["analyzers"])
        else:
            assert settings["type"] == "diagnostic_aggregator/GenericAnalyzer"
            yield settings


def _analyzers() -> dict[str, Generic]:
    return {settings["path"]: Generic(settings) for settings in _generics(_parameters())}


def _whats() -> set[str]:
    """What follows the arm in the names that the nodes give: every DiagnosticStatus of theirs, from their code."""
    from vlaforget_ros.nodes import diagnosis

    found = set()
    for path in sorted(NODES.glob("*.py")):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and ast.unparse(call.func).endswith("DiagnosticStatus"):
                name = next(keyword.value for keyword in call.keywords if keyword.arg == "name")
                assert isinstance(name, ast.Call), path
                assert ast.unparse(name.func).endswith("status_name"), path
                found.add(getattr(diagnosis, ast.unparse(name.args[1])))
    return found


def _now(age_s: float, *names: str) -> dict[str, tuple[int, float]]:
    return dict.fromkeys(names, (OK, 100.0 - age_s))


def test_parameters_have_the_names_and_types_that_are_read() -> None:
    analyzers = _analyzers()
    assert len(analyzers) == 2
    for analyzer in analyzers.values():
        for key, value in analyzer.settings.items():
            assert type(value) is TYPES[key], key
            assert not isinstance(value, list) or all(type(one) is str for one in value)
        assert not any("/" in analyzer.settings["path"] for analyzer in analyzers.values())


@pytest.mark.ros
@pytest.mark.parametrize("arm", ARMS)
def test_one_analyzer_takes_each_status_and_other_stays_empty(arm: str) -> None:
    from vlaforget_ros.nodes.diagnosis import CANARY, MONITOR, RECORDER, status_name

    assert _whats() == {MONITOR, CANARY, RECORDER}
    for what in _whats():
        name = status_name(arm, what)
        (taken,) = (path for path, analyzer in _analyzers().items() if analyzer.match(name))
        assert taken == ("monitor" if what == MONITOR else "others")


@pytest.mark.parametrize(
    "name",
    ["vlaforget", "safety monitor", "robot: vlaforget: canary", "vlaforget: canary run", "vlaforget: "],
)
def test_names_of_others_are_left_alone(name: str) -> None:
    assert not any(analyzer.match(name) for analyzer in _analyzers().values())


@pytest.mark.ros
def test_what_is_expected_is_said_and_caught() -> None:
    from vlaforget_ros.nodes.diagnosis import MONITOR, status_name

    for analyzer in _analyzers().values():
        for name in analyzer.settings.get("expected", []):
            assert name == status_name("/", MONITOR)
            assert analyzer.match(name)


def test_a_monitor_that_is_missing_or_silent_is_seen() -> None:
    monitor = _analyzers()["monitor"]
    name = "vlaforget: safety monitor"
    assert monitor.level(100.0) == STALE
    monitor.heard = _now(1.0, name)
    assert monitor.level(100.0) == OK
    monitor.heard = _now(3.0, name)
    assert monitor.level(100.0) == STALE
    monitor.heard |= _now(0.1, "vlaforget: arm1: safety monitor")
    assert monitor.level(100.0) == ERROR


def test_a_recording_that_ended_is_no_error_for_ever() -> None:
    others = _analyzers()["others"]
    others.heard = _now(0.5, "vlaforget: recorder", "vlaforget: canary")
    assert others.level(100.0) == OK
    others.heard |= _now(60.0, "vlaforget: recorder")
    assert others.level(100.0) == OK
    others.heard |= _now(60.0, "vlaforget: canary")
    assert others.level(100.0) == OK
    others.heard["vlaforget: canary"] = (ERROR, 99.5)
    assert others.level(100.0) == ERROR


@pytest.mark.ros
def test_nodes_that_report_as_configured_are_not_stale() -> None:
    from vlaforget_ros.nodes import recorder_node

    (monitor,) = yaml.safe_load((ROOT / "config" / "safety.yaml").read_text(encoding="utf-8")).values()
    timeouts = {path: analyzer.settings["timeout"] for path, analyzer in _analyzers().items()}
    assert timeouts["monitor"] > 2 * monitor["ros__parameters"]["heartbeat_s"]
    assert timeouts["others"] > 2 * recorder_node._LOOK_S


def test_the_analyzers_are_no_parameter_file_of_a_node() -> None:
    from vlaforget_ros.bringup.table import parameter_file
    from vlaforget_ros.errors import VlaForgetError

    with pytest.raises(VlaForgetError):
        parameter_file("analyzers")
