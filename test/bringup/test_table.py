"""The process table: what a graph is made of, and how arguments become files, parameters and names."""

import re
from pathlib import Path

import pytest

from vlaforget_ros.bringup import table
from vlaforget_ros.errors import ErrorCode, VlaForgetError

ROOT = Path(__file__).resolve().parents[2]


def _executables(graph: str) -> list[str]:
    return [process.executable for process in table.processes(graph)]


def test_graphs_hold_the_nodes_their_names_promise() -> None:
    assert _executables("unlearn") == ["policy_node", "unlearning_node", "safety_monitor_node"]
    assert _executables("serve") == ["policy_node", "safety_monitor_node"]
    assert _executables("monitor") == ["safety_monitor_node"]
    assert sorted(_executables("demo")) == [
        "cell_node",
        "policy_node",
        "recorder_node",
        "safety_monitor_node",
        "unlearning_node",
    ]


def test_every_executable_of_the_table_is_built_by_cmake() -> None:
    listed = re.search(r"foreach\(node IN ITEMS ([a-z_ ]+)\)", (ROOT / "CMakeLists.txt").read_text())
    assert listed is not None
    built = {f"{name}_node" for name in listed[1].split()}
    assert {name for graph in table.GRAPHS for name in _executables(graph)} == built


def test_only_nodes_the_arm_is_safe_without_may_end_alone() -> None:
    optional = {process.executable for process in table.processes("demo") if not process.essential}
    assert optional == {"unlearning_node", "recorder_node"}


def test_parameter_files_exist_for_the_defaults_of_every_graph() -> None:
    for graph in table.GRAPHS:
        for process in table.processes(graph):
            assert process.parameter_files
            assert all(file.is_file() for file in process.parameter_files)


def test_demo_runs_on_simulated_time_and_a_robot_does_not() -> None:
    assert {process.parameters["use_sim_time"] for process in table.processes("demo")} == {True}
    assert {process.parameters["use_sim_time"] for process in table.processes("unlearn")} == {False}


def test_an_argument_that_is_not_given_leaves_the_parameter_to_the_file() -> None:
    by_default = table.processes("serve")[0].parameters
    given = table.processes("serve", {"store": "/data/store"})[0].parameters
    assert "store" not in by_default
    assert given["store"] == "/data/store"


def test_all_nodes_of_a_graph_share_one_store() -> None:
    stores = [process.parameters.get("store") for process in table.processes("unlearn", {"store": "/s"})]
    assert stores == ["/s", "/s", "/s"]


@pytest.mark.parametrize("text", ["arm1", "/arm1", "/arm1/"])
def test_namespace_is_absolute_however_it_is_written(text: str) -> None:
    assert {process.namespace for process in table.processes("serve", {"namespace": text})} == {"/arm1"}


def test_topic_arguments_become_remappings_of_every_node() -> None:
    arguments = {"image_topic": "/camera/color/image_raw", "ee_pose_topic": "/tcp"}
    for process in table.processes("unlearn", arguments):
        assert process.remappings == (("image", "/camera/color/image_raw"), ("ee_pose", "/tcp"))


def test_overrides_win_over_arguments() -> None:
    process = table.processes("serve", {"store": "/a"}, {"policy_node": {"store": "/b", "tick_s": 0.2}})[0]
    assert process.parameters["store"] == "/b"
    assert process.parameters["tick_s"] == 0.2


def test_a_path_is_taken_as_the_parameter_file(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("/**:\n  ros__parameters: {}\n")
    assert table.processes("monitor", {"safety": str(own)})[0].parameter_files == (own,)


@pytest.mark.parametrize(
    ("graph", "arguments", "overrides", "expected"),
    [
        ("unlern", {}, {}, "did you mean unlearn?"),
        ("serve", {"polcy": "tiny"}, {}, "did you mean policy?"),
        ("serve", {"policy": "tyny"}, {}, "did you mean tiny?"),
        ("serve", {"policy": "/nowhere/x.yaml"}, {}, "no such parameter file"),
        ("serve", {"autostart": "yes"}, {}, "true"),
        ("monitor", {"policy": "tiny"}, {}, "takes no argument policy"),
        ("monitor", {}, {"policy_node": {}}, "has no policy_node"),
    ],
)
def test_what_is_not_known_is_refused_with_what_is(
    graph: str, arguments: dict[str, str], overrides: dict[str, dict[str, bool]], expected: str
) -> None:
    with pytest.raises(VlaForgetError) as caught:
        table.processes(graph, arguments, overrides)
    assert caught.value.code == ErrorCode.BRINGUP_BAD_ARGUMENT
    assert expected in str(caught.value)
