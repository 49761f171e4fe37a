"""Two races of Python and rclpy that would each stop a node or a client for good."""

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


def test_a_signal_that_another_thread_gets_ends_the_node(domain: None, tmp_path: Path) -> None:
    line = [sys.executable, "-c", SIGNALLED, str(tmp_path / "bag")]
    ended = subprocess.run(line, timeout=60, capture_output=True, text=True)
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
    client.wait_until_ready(["policy_node"], 60.0)
    result = client.execute("open the faucet", max_steps=1)
    assert result.rollout_id
    assert made == ["vlaforget_client"]
    assert graph.stop("policy") == 0, graph.log("policy")
