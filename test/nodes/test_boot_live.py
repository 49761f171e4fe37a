"""A policy node that starts: with the last known good adapter, and never with the bare base by accident."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from live_parts import start_policy

from vlaforget_ros.adapters import AdapterStore

AddAdapter = Callable[[AdapterStore, str, str, int], str]
pytestmark = pytest.mark.ros


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
    client.wait_until_ready(["policy_node"], 90.0)
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


def test_after_a_kill_a_damaged_stable_gives_way_to_previous(
    graph: Any, client: Any, tiny: Any, digests: list[str], store: AdapterStore
) -> None:
    graph.kill("policy")
    damage(store, digests[1])
    robot = started(graph, client, tiny)
    assert robot.wait_for_policy(lambda s: s.active_digest == digests[0]).active_digest == digests[0]
    assert "cannot start with stable" in graph.log("policy")


def test_with_nothing_to_serve_it_does_not_come_up_unless_the_base_is_allowed(
    graph: Any, client: Any, tiny: Any, digests: list[str], store: AdapterStore
) -> None:
    graph.kill("policy")
    damage(store, digests[0])
    start_policy(graph, tiny.folder)
    assert graph.processes.pop("policy").wait(timeout=90) != 0
    assert "[103 ADAPTER_BAD_DIGEST] there is no adapter to start with" in graph.log("policy")
    assert "Traceback" not in graph.log("policy")
    robot = started(graph, client, tiny, allow_base=True)
    assert robot.wait_for_policy(lambda s: s.resident == []).active_digest == ""
