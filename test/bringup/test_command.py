"""Command lines and environments of node processes."""

import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from vlaforget_ros.bringup import command
from vlaforget_ros.bringup.table import Process
from vlaforget_ros.errors import ErrorCode, VlaForgetError


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """A colcon install with nothing in it but one executable."""
    script = tmp_path / "lib" / "vlaforget_ros" / "policy_node"
    script.parent.mkdir(parents=True)
    script.touch()
    (tmp_path / "lib" / "python3.11" / "site-packages").mkdir(parents=True)
    return tmp_path


def test_command_line_of_a_full_row(prefix: Path) -> None:
    process = Process(
        executable="policy_node",
        namespace="/arm1",
        parameter_files=(Path("/etc/a.yaml"), Path("/etc/b.yaml")),
        parameters={"use_sim_time": True, "store": "/data/my store"},
        remappings=(("image", "/camera"),),
        log_level="warn",
    )
    assert command.command_line(process, prefix) == [
        *(sys.executable, str(prefix / "lib/vlaforget_ros/policy_node"), "--ros-args"),
        *("-r", "__node:=policy_node", "-r", "__ns:=/arm1", "-r", "image:=/camera"),
        *("--params-file", "/etc/a.yaml", "--params-file", "/etc/b.yaml"),
        *("-p", "use_sim_time:=true", "-p", 'store:="/data/my store"'),
        *("--log-level", "warn"),
    ]


def test_no_namespace_is_not_remapped(prefix: Path) -> None:
    assert not any("__ns" in word for word in command.command_line(Process("policy_node", "", ()), prefix))


@given(
    st.one_of(
        st.booleans(),
        st.integers(-(2**63), 2**63 - 1),
        st.floats(allow_nan=False),
        st.text(st.characters(codec="ascii", exclude_categories=["Cc"])),
    )
)
def test_parameter_values_keep_their_type(value: bool | int | float | str) -> None:
    process = Process("policy_node", "", (), parameters={"p": value})
    line = command.command_line(process, Path("/prefix"))
    name, text = line[line.index("-p") + 1].split(":=", 1)
    read = yaml.safe_load(text)
    assert name == "p"
    assert read == value
    assert type(read) is type(value)


def test_the_activated_install_is_found_among_other_prefixes(prefix: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    assert command.install_prefix({"AMENT_PREFIX_PATH": f"{other}:{prefix}"}) == prefix


def test_without_a_build_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "source_root", lambda: None)
    with pytest.raises(VlaForgetError) as caught:
        command.install_prefix({"AMENT_PREFIX_PATH": "/opt/ros/jazzy"})
    assert caught.value.code == ErrorCode.ROS_MISSING
    assert "make build" in caught.value.remedy


def test_an_activated_environment_is_left_as_it_is(prefix: Path) -> None:
    activated = {"AMENT_PREFIX_PATH": str(prefix), "HOME": "/root"}
    assert command.ros_environment(activated) == activated


def test_a_plain_environment_is_completed(prefix: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "install_prefix", lambda environment: prefix)
    plain = {"PYTHONPATH": "/mine", "_ROS_WHEELS_BOOTSTRAP_COMPLETE": "1", "MUJOCO_GL": "egl"}
    completed = command.ros_environment(plain)
    assert completed["AMENT_PREFIX_PATH"].split(":") == [str(prefix), sys.prefix]
    assert completed["PYTHONPATH"].split(":") == [f"{prefix}/lib/python3.11/site-packages", "/mine"]
    assert completed["LD_LIBRARY_PATH"] == f"{prefix}/lib"
    assert "_ROS_WHEELS_BOOTSTRAP_COMPLETE" not in completed
    assert completed["MUJOCO_GL"] == "egl"
    assert plain["PYTHONPATH"] == "/mine"
