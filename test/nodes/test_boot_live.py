"""A policy node that starts: with the last known good adapter, and never with the bare base by accident."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from live_parts import start_policy

from vlaforget_ros.adapters import AdapterStore
from vlaforget_ros.policy import checkpoint
from vlaforget_ros.policy.tiny import new_tiny

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


def test_a_checkpoint_that_cannot_be_served_is_refused_while_the_old_one_serves(
    graph: Any, client: Any, tiny: Any, tmp_path: Path
) -> None:
    """Runs on from the test before: the policy serves the base."""
    from rcl_interfaces.msg import SetParametersResult
    from rcl_interfaces.srv import SetParameters
    from rclpy.parameter import Parameter

    from vlaforget_ros.nodes.connection import Connection

    connection = Connection("", 60.0)
    try:

        def put(name: str, value: str) -> SetParametersResult:
            request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
            return connection.call(SetParameters, "policy_node/set_parameters", request).results[0]

        before = client.wait_for_policy(lambda s: s.base_digest == tiny.digest)
        broken = shutil.copytree(tiny.folder, tmp_path / "broken")
        (broken / "model.safetensors").write_bytes((broken / "model.safetensors").read_bytes()[:1000])
        for name, value, says in (
            ("checkpoint", str(broken), "[207 POLICY_BAD_CHECKPOINT] unusable checkpoint: model.safetensors"),
            ("checkpoint", str(tmp_path / "none"), "[207 POLICY_BAD_CHECKPOINT]"),
            ("device", "cuda:7", "[208 POLICY_BAD_PARAMETER] device; value: cuda:7"),
            ("weights", "int9", "[208 POLICY_BAD_PARAMETER]"),
        ):
            answer = put(name, value)
            assert not answer.successful
            assert answer.reason.startswith(says)
        assert client.state("policy_node") == "active"
        told = before.header.stamp.sec
        assert client.wait_for_policy(lambda s: s.header.stamp.sec > told).base_digest == tiny.digest

        other, tokenizer = new_tiny(["open the faucet"], seed=5)
        digest = checkpoint.save(tmp_path / "other", other, tokenizer)
        assert put("checkpoint", str(tmp_path / "other")).successful
        assert "takes effect when the node is next configured: checkpoint" in graph.log("policy")
    finally:
        connection.close()
    for transition in ("deactivate", "cleanup", "configure", "activate"):
        client.change_state("policy_node", transition)
    assert client.wait_for_policy(lambda s: s.base_digest != tiny.digest).base_digest == digest
