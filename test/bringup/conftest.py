"""Small stand-ins for launch and launch_ros that only record what a launch file declares.

They say nothing about whether launch accepts it: where the real packages are installed test_launch_files.py
uses those as well.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import pytest


@dataclass
class LaunchContext:
    launch_configurations: dict[str, str] = field(default_factory=dict)
    is_shutdown: bool = False


@dataclass
class LaunchConfiguration:
    name: str

    def perform(self, context: LaunchContext) -> str:
        return context.launch_configurations[self.name]


@dataclass
class DeclareLaunchArgument:
    name: str
    default_value: str
    description: str
    choices: list[str] | None


@dataclass
class OpaqueFunction:
    function: Callable[..., Any]
    args: list[Any] = field(default_factory=list)


@dataclass
class SetEnvironmentVariable:
    name: str
    value: str


@dataclass
class Shutdown:
    reason: str


class LifecycleNode:
    """Keyword arguments as of launch_ros; an unknown one is a TypeError, as there."""

    def __init__(
        self,
        *,
        package: str,
        executable: str,
        name: str,
        namespace: str,
        parameters: list[Any],
        remappings: list[tuple[str, str]],
        ros_arguments: list[str],
        output: str,
        emulate_tty: bool,
        sigterm_timeout: str,
        on_exit: list[Any] | None,
    ) -> None:
        self.recorded = {key: value for key, value in locals().items() if key != "self"}


@dataclass
class LaunchDescription:
    entities: list[Any]


def _install(monkeypatch: pytest.MonkeyPatch) -> None:
    contents: dict[str, tuple[type, ...]] = {
        "launch": (LaunchContext, LaunchDescription),
        "launch.action": (),
        "launch.actions": (DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable, Shutdown),
        "launch.substitutions": (LaunchConfiguration,),
        "launch_ros": (),
        "launch_ros.actions": (LifecycleNode,),
    }
    for name, members in contents.items():
        module = ModuleType(name)
        for member in members:
            setattr(module, member.__name__, member)
        monkeypatch.setitem(sys.modules, name, module)
    sys.modules["launch.action"].Action = object  # type: ignore[attr-defined]


@pytest.fixture
def install_recorders(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Call it: `import launch` and `import launch_ros` find the stand-ins for the length of the test."""
    return lambda: _install(monkeypatch)
