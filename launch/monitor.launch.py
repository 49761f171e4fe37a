"""ros2 launch vlaforget_ros monitor.launch.py: the safety monitor alone, beside any controller.

`--show-args` lists the arguments. The processes are those of vlaforget_ros/bringup/table.py; where launch is
not installed `vlaforget up monitor` starts the same ones.
"""

from launch import LaunchDescription

from vlaforget_ros.bringup.launching import description


def generate_launch_description() -> LaunchDescription:
    """Called by launch."""
    return description("monitor")
