"""A policy node that starts: with the last known good adapter, and never with the bare base by accident."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from live_parts import start_policy

from vlaforget_ros.adapters import AdapterStore

AddAdapter = Callable[[AdapterStore, str, str, int], str]
pytestmark = [pytest.mark.ros, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def store(graph: Any) -> AdapterStore:
    return AdapterStore(graph.folder / "store")


@pytest.fixture(scope="module")
def digests(store: AdapterStore, tiny: Any, add_adapter: AddAdapter) -> list[str]:
    """Two adapters, the second one stable and the first one stable before."""
    found = [add_adapter(store, tiny.digest, f"edit-{seed}", seed) for seed in (1, 2)]
    for digest in found:
        store.alias("stable", digest)
    return found


def started(graph: Any, client: Any, tiny: Any, **parameters: Any) -> Any:
    start_policy(graph, tiny.folder, **parameters)
    client.wait_until_ready(["policy_node"], 150.0)
    return client


def damage(store: AdapterStore, digest: str) -> None:
    file = store.path(digest) / "adapter_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def test_it_serves_stable_and_rolls_back_to_previous(
    graph: Any, client: Any, tiny: Any, digests: list[str]
) -> None:
    robot = started(graph, client, tiny)
    status = robot.wait_for_policy(lambda s: s.active_digest == digests[1])
    assert status.active_digest == digests[1]
    assert set(status.resident) == set(digests)
    assert robot.rollback("misbehaves").active_digest == digests[0]


def test_watch_shows_who_serves_and_the_swap_that_it_sees(
    graph: Any, client: Any, digests: list[str]
) -> None:
    command = [sys.executable, "-m", "vlaforget_ros.cli.app", "watch", "--seconds", "160"]
    watching = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    lines = iter(watching.stdout or ())
    # Into a pipe an event is a line: swaps until the first one is seen.
    done = threading.Event()

    def keep_swapping() -> None:
        while not done.wait(0.2):
            for name in ("edit-2", "edit-1"):
                client.swap(name)

    swapping = threading.Thread(target=keep_swapping)
    swapping.start()
    try:
        first = next(line for line in lines if "swap:" in line)
    finally:
        done.set()
        swapping.join()
    # It has seen the last one, too, before it is told to leave.
    client.swap("base")
    assert next(line for line in lines if "swap:" in line and line.rstrip().endswith("→ base"))
    client.swap("edit-1")
    assert next(line for line in lines if "swap: base" in line)
    watching.send_signal(signal.SIGINT)
    rest = "".join(lines)
    assert watching.wait(timeout=60) == 0
    assert "→" in first
    (row,) = [
        line
        for line in rest.splitlines()
        if digests[0][:12] in line and "serves" in line and "edit-1" in line
    ]
    assert "│" in row


def test_after_a_kill_a_damaged_stable_gives_way_to_previous(
    graph: Any, client: Any, tiny: Any, digests: list[str], store: AdapterStore
) -> None:
    graph.kill("policy")
    killed_s = time.time()
    damage(store, digests[1])
    robot = started(graph, client, tiny)
    assert robot.wait_for_policy(lambda s: s.header.stamp.sec > killed_s).active_digest == digests[0]
    assert "cannot start with stable" in graph.log("policy")


def test_with_nothing_to_serve_it_does_not_come_up_unless_the_base_is_allowed(
    graph: Any, client: Any, tiny: Any, digests: list[str], store: AdapterStore
) -> None:
    graph.kill("policy")
    damage(store, digests[0])
    start_policy(graph, tiny.folder)
    assert graph.processes.pop("policy").wait(timeout=150) != 0
    assert "[103 ADAPTER_BAD_DIGEST] there is no adapter to start with" in graph.log("policy")
    assert "Traceback" not in graph.log("policy")
    robot = started(graph, client, tiny, allow_base=True)
    assert robot.wait_for_policy(lambda s: s.resident == []).active_digest == ""
