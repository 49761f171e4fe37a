"""ros2 launch vlaforget_ros canary.launch.py: policy, and the safety monitor in the command path.

`--show-args` lists the arguments. The processes are those of vlaforget_ros/bringup/table.py; where launch is
not installed `vlaforget up canary` starts the same ones.
"""

from launch import LaunchDescription

from vlaforget_ros.bringup.launching import description


def generate_launch_description() -> LaunchDescription:
    """Called by launch."""
    return description("canary")
