"""Races of Python and rclpy that would each stop a node or a client for good, or let it miss what it waits for."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.ros

SIGNALLED = """
import signal, sys, threading
from vlaforget_ros.nodes.recorder import main

told = []

def watch(summary):
    if not told:
        # As the kernel may choose to: the main thread, which waits, is not woken by it.
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
    told.append(summary)

line = ["--ros-args", "-p", "autostart:=true", "-p", f'bag:="{sys.argv[1]}"', "-p", "min_free_mb:=0.0"]
sys.exit(main([sys.argv[0], *line], watch=watch))
"""


DESTROYED = """
import os, signal, sys
from rclpy.action import ActionServer
from vlaforget_ros.action import Unlearn
from vlaforget_ros.nodes.base import VlaNode
from vlaforget_ros.nodes.spin import serve

class Late(ActionServer):
    def __enter__(self):
        # As an arm's cleanup may in a worker thread, between the executor's look and its wait.
        self.destroy()
        super().__enter__()

class Node(VlaNode):
    threads = 2

    def configure(self, values):
        Late(self, Unlearn, "edit", print)
        self.create_timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT), clock=self.steady)

sys.exit(serve(lambda: Node("destroyed"), [sys.argv[0], "--ros-args", "-p", "autostart:=true"]))
"""


def test_an_action_server_that_is_destroyed_while_it_is_waited_for_ends_no_node(domain: None) -> None:
    ended = subprocess.run([sys.executable, "-c", DESTROYED], timeout=120, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "destroyed while it was waited for" in ended.stderr


def test_who_waits_for_a_status_gets_one_that_another_follows_at_once(make_client: Any) -> None:
    from vlaforget_ros.msg import PolicyStatus

    connection, waits, got = make_client()._connection, threading.Event(), []

    def accept(status: Any) -> bool:
        waits.set()
        return bool(status.state == 3)

    connection._keep("policy/status", PolicyStatus(state=2))
    waiter = threading.Thread(target=lambda: got.append(connection.wait_for("policy/status", accept, 30.0)))
    waiter.start()
    assert waits.wait(30)
    # Under the lock, so that nobody wakes up between them.
    with connection._changed:
        for state in (3, 2):
            connection._keep("policy/status", PolicyStatus(state=state))
    waiter.join()
    assert [status.state for status in got] == [3]


def test_a_signal_that_another_thread_gets_ends_the_node(domain: None, tmp_path: Path) -> None:
    line = [sys.executable, "-c", SIGNALLED, str(tmp_path / "bag")]
    ended = subprocess.run(line, timeout=120, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "bag" / "metadata.yaml").exists()


def test_an_action_client_is_made_where_it_is_spun(
    graph: Any, make_client: Any, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vlaforget_ros.nodes import connection

    made = []

    class Seen(connection.ActionClient):  # type: ignore[misc]
        def __init__(self, *values: Any) -> None:
            made.append(threading.current_thread().name)
            super().__init__(*values)

    monkeypatch.setattr(connection, "ActionClient", Seen)
    graph.start("policy", checkpoint=str(tiny.folder), store=str(graph.folder / "store"), image_timeout_s=0.5)
    client = make_client()
    client.wait_until_ready(["policy_node"], 120.0)
    result = client.execute("open the faucet", max_steps=1)
    assert result.rollout_id
    assert made == ["vlaforget_client"]
    assert graph.stop("policy") == 0, graph.log("policy")
