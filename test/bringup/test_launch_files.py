"""launch/*.launch.py against the process table: recorded, and with the real launch where it is installed."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from vlaforget_ros.bringup import middleware, table

NAMES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
LAUNCH = Path(__file__).resolve().parents[2] / "launch"


def _spec(name: str) -> Any:
    try:
        return importlib.util.find_spec(name)
    except ModuleNotFoundError:
        return None


# The folder launch/ of this source tree can be imported as an empty package: only one with content counts.
KINDS = ["recorded", *(["real"] if _spec("launch.actions") and _spec("launch_ros.actions") else [])]


@pytest.fixture(params=KINDS)
def kind(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    install_recorders: Callable[[], None],
) -> str:
    if request.param == "recorded":
        install_recorders()
    monkeypatch.delitem(sys.modules, "vlaforget_ros.bringup.launching", raising=False)
    return str(request.param)


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.name.replace(".", "_"), path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _context(arguments: dict[str, str]) -> Any:
    from launch import LaunchContext

    context = LaunchContext()
    context.launch_configurations.update(arguments)
    return context


def test_there_is_one_launch_file_for_each_graph() -> None:
    assert {path.name.removesuffix(".launch.py") for path in LAUNCH.iterdir() if path.is_file()} == set(
        table.GRAPHS
    )


@pytest.mark.parametrize("graph", table.GRAPHS)
def test_launch_file_declares_the_arguments_of_the_table(graph: str, kind: str) -> None:
    entities = _load(LAUNCH / f"{graph}.launch.py").generate_launch_description().entities
    declared = [action for action in entities if type(action).__name__ == "DeclareLaunchArgument"]
    expected = [(argument.name, list(argument.choices) or None) for argument in table.GRAPHS[graph].arguments]
    assert [(action.name, action.choices or None) for action in declared] == expected
    assert all(action.description for action in declared)


@pytest.mark.parametrize("graph", table.GRAPHS)
def test_launch_file_starts_the_processes_of_the_table(graph: str, kind: str) -> None:
    arguments = {argument.name: argument.default for argument in table.GRAPHS[graph].arguments}
    arguments |= {"namespace": "arm1", "store": "/data/store"}
    opaque = _load(LAUNCH / f"{graph}.launch.py").generate_launch_description().entities[-1]
    context = _context(arguments)
    nodes = opaque.function(context) if kind == "recorded" else opaque.execute(context)
    expected = table.processes(graph, arguments)
    assert len(nodes) == len(expected)
    for node, process in zip(nodes, expected, strict=True):
        if kind == "recorded":
            _check_recorded(node, process)
        else:
            _check_real(node, process)


def test_launch_gives_raw_images_room_unless_the_user_chose_himself(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(middleware, "_LEAST_FREE", 0)
    (variable,) = _variables()
    if kind == "recorded":
        assert variable.name in NAMES
        assert Path(variable.value).read_text().startswith("<?xml")
    monkeypatch.setenv(NAMES[0], "/etc/mine.xml")
    assert not _variables()


def _variables() -> list[Any]:
    entities = _load(LAUNCH / "serve.launch.py").generate_launch_description().entities
    return [action for action in entities if type(action).__name__ == "SetEnvironmentVariable"]


def _check_recorded(node: Any, process: table.Process) -> None:
    recorded = node.recorded
    assert recorded["package"] == "vlaforget_ros"
    assert recorded["executable"] == recorded["name"] == process.executable
    assert recorded["namespace"] == "/arm1"
    *files, values = recorded["parameters"]
    assert files == [str(file) for file in process.parameter_files]
    assert values == process.parameters
    assert recorded["remappings"] == list(process.remappings)
    assert bool(recorded["on_exit"]) == process.essential


def _check_real(node: Any, process: table.Process) -> None:
    assert node.node_package == "vlaforget_ros"
    assert node.node_executable == process.executable


def test_the_end_of_an_essential_node_stops_the_graph_once(kind: str) -> None:
    launching = importlib.import_module("vlaforget_ros.bringup.launching")
    context = _context({})
    assert len(launching._stop_all(context, "policy_node")) == 1
    if kind == "real":
        context._set_is_shutdown(True)
    else:
        context.is_shutdown = True
    assert launching._stop_all(context, "policy_node") == []
