"""The command line and the environment of one process of the table."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import yaml

from vlaforget_ros.bringup.table import ParameterValue, Process
from vlaforget_ros.errors import ErrorCode, VlaForgetError
from vlaforget_ros.paths import PACKAGE, source_root

# Variables that list the prefixes of a ROS installation.
_PREFIX_VARIABLES = ("AMENT_PREFIX_PATH", "CMAKE_PREFIX_PATH")
# The ROS wheels restart Python once to set LD_LIBRARY_PATH, and mark it with this variable. A child of a
# process that was started without the activated environment has to do it again.
_WHEELS_GUARD = "_ROS_WHEELS_BOOTSTRAP_COMPLETE"


def install_prefix(environment: Mapping[str, str]) -> Path:
    """The colcon install that holds the node executables: the activated one, or that of this source tree.

    Args:
        environment: variables as in ``os.environ``.

    Raises:
        VlaForgetError: 602, ROS 2 or the build is missing.
    """
    candidates = [
        Path(entry) for entry in environment.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if entry
    ]
    root = source_root()
    if root is not None:
        candidates.append(root / "install" / PACKAGE)
        candidates.append(
            root.parent.parent / "install" / PACKAGE
        )  # a workspace: <workspace>/src/<this tree>
    for prefix in candidates:
        if (prefix / "lib" / PACKAGE / "policy_node").is_file():
            return prefix
    raise VlaForgetError(
        ErrorCode.ROS_MISSING,
        "the ROS 2 nodes are not built here",
        limit=f"a prefix with lib/{PACKAGE}/policy_node in AMENT_PREFIX_PATH",
        remedy="`make build` and `. ./activate.sh`; on a robot `colcon build` and source install/setup.bash",
    )


def ros_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables a node needs: those given, and what `activate.sh` sets where that was not sourced.

    Raises:
        VlaForgetError: 602, ROS 2 or the build is missing.
    """
    prefix = install_prefix(environment)
    completed = dict(environment)
    if str(prefix) in completed.get("AMENT_PREFIX_PATH", "").split(os.pathsep):
        return completed
    for variable in _PREFIX_VARIABLES:
        _prepend(completed, variable, [prefix, Path(sys.prefix)])
    _prepend(completed, "PYTHONPATH", sorted(prefix.glob("lib/python3*/site-packages")))
    _prepend(completed, "LD_LIBRARY_PATH", [prefix / "lib"])
    completed.pop(_WHEELS_GUARD, None)
    completed.setdefault("MUJOCO_GL", "osmesa")
    return completed


def command_line(process: Process, prefix: Path) -> list[str]:
    """Arguments that start ``process`` with the Python that runs now.

    Args:
        process: from :func:`vlaforget_ros.bringup.table.processes`.
        prefix: from :func:`install_prefix`.
    """
    script = prefix / "lib" / PACKAGE / process.executable
    line = [sys.executable, str(script), "--ros-args", "-r", f"__node:={process.executable}"]
    if process.namespace:
        line += ["-r", f"__ns:={process.namespace}"]
    for source, target in process.remappings:
        line += ["-r", f"{source}:={target}"]
    for file in process.parameter_files:
        line += ["--params-file", str(file)]
    for name, value in process.parameters.items():
        line += ["-p", f"{name}:={_yaml(value)}"]
    return [*line, "--log-level", process.log_level]


def _yaml(value: ParameterValue) -> str:
    """YAML text that is read back with the same type: the text "7" stays a text, 2.0 stays a float."""
    if isinstance(value, float):
        return str(yaml.safe_dump(value)).splitlines()[0]
    return json.dumps(value)  # JSON is YAML; quoted, and always one line


def _prepend(environment: dict[str, str], variable: str, places: list[Path]) -> None:
    before = environment.get(variable, "")
    environment[variable] = os.pathsep.join([*map(str, places), *([before] if before else [])])
