"""The process table as a launch description, for launch/*.launch.py. Nothing else imports launch."""

from __future__ import annotations

import os
from collections.abc import Mapping

from launch import LaunchContext, LaunchDescription
from launch.action import Action
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable, Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode

from vlaforget_ros.bringup.middleware import image_profiles
from vlaforget_ros.bringup.table import Argument, Process, graph, processes
from vlaforget_ros.paths import PACKAGE


def description(name: str) -> LaunchDescription:
    """The launch description of a graph: its arguments, then its nodes once the arguments are known.

    Raw images get room in Fast DDS, also for a camera's driver that a launch file starts after including this one.

    Args:
        name: a key of :data:`vlaforget_ros.bringup.table.GRAPHS`.
    """
    chosen = graph(name)

    def nodes(context: LaunchContext) -> list[Action]:
        texts = {
            argument.name: LaunchConfiguration(argument.name).perform(context)
            for argument in chosen.arguments
        }
        return [_node(process) for process in processes(name, texts)]

    declared = [_declare(argument) for argument in chosen.arguments]
    room = [SetEnvironmentVariable(name, value) for name, value in image_profiles(os.environ).items()]
    return LaunchDescription([*declared, *room, OpaqueFunction(function=nodes)])


def _declare(argument: Argument) -> DeclareLaunchArgument:
    choices = list(argument.choices) or None
    return DeclareLaunchArgument(
        argument.name, default_value=argument.default, description=argument.description, choices=choices
    )


def _node(process: Process) -> Action:
    options: Mapping[str, object] = {
        "package": PACKAGE,
        "executable": process.executable,
        "name": process.executable,
        "namespace": process.namespace,
        "parameters": [*map(str, process.parameter_files), dict(process.parameters)],
        "remappings": list(process.remappings),
        "ros_arguments": ["--log-level", process.log_level],
        "output": "both",
        "emulate_tty": True,
        "sigterm_timeout": "10",  # [s] a policy or an edit on a busy machine needs more than launch's 5 to close
        "on_exit": [OpaqueFunction(function=_stop_all, args=[process.executable])]
        if process.essential
        else None,
    }
    return LifecycleNode(**options)


def _stop_all(context: LaunchContext, executable: str) -> list[Action]:
    """Shuts the graph down, once: a node that ends because of a shutdown must not ask for another."""
    return [] if context.is_shutdown else [Shutdown(reason=f"{executable} ended")]
