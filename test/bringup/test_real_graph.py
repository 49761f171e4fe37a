"""The supervisor with a real node: it comes up by itself, and an interrupt is an orderly end."""

import os
import signal
import threading
from pathlib import Path

import pytest

from vlaforget_ros.bringup.command import ros_environment
from vlaforget_ros.bringup.domains import own_domain
from vlaforget_ros.bringup.middleware import image_profiles
from vlaforget_ros.bringup.supervisor import Supervisor, commands
from vlaforget_ros.bringup.table import processes


@pytest.mark.ros
@pytest.mark.timeout(300)
def test_a_node_of_the_table_activates_itself_and_ends_in_order(tmp_path: Path) -> None:
    environment = ros_environment(os.environ) | image_profiles(os.environ)
    environment |= {
        "ROS_DOMAIN_ID": str(own_domain()),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "ROS_HOME": str(tmp_path / "ros"),
    }
    table = processes("monitor", {"namespace": "arm1", "log_level": "info"})
    # However long an orderly end takes here: nothing but the interrupt asks for it.
    supervisor = Supervisor(
        commands(table, environment),
        tmp_path,
        environment=environment,
        say=lambda _: None,
        stop_sequence=((signal.SIGINT, 100.0), (signal.SIGKILL, 10.0)),
    )
    tick = threading.Event()
    with supervisor:
        (state,) = supervisor.states()
        while "]: active" not in state.log.read_text():
            assert supervisor.check(), state.log.read_text()
            tick.wait(0.1)
        assert "[arm1.safety_monitor_node]" in state.log.read_text()
    (state,) = supervisor.states()
    assert state.returncode == 0, state.log.read_text()
