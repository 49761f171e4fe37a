"""ros2 launch vlaforget_ros demo.launch.py: all nodes with a simulated cell in lockstep.

`--show-args` lists the arguments. The processes are those of vlaforget_ros/bringup/table.py; where launch is
not installed `vlaforget up demo` starts the same ones.
"""

from launch import LaunchDescription

from vlaforget_ros.bringup.launching import description


def generate_launch_description() -> LaunchDescription:
    """Called by launch."""
    return description("demo")
