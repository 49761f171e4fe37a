"""ros2 launch vlaforget_ros serve.launch.py: policy and safety monitor.

`--show-args` lists the arguments. The processes are those of vlaforget_ros/bringup/table.py; where launch is
not installed `vlaforget up serve` starts the same ones.
"""

from launch import LaunchDescription

from vlaforget_ros.bringup.launching import description


def generate_launch_description() -> LaunchDescription:
    """Called by launch."""
    return description("serve")
