"""The policy node with a trust policy: swaps of unsigned adapters are refused over the service."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from signed_parts import Signers

from vlaforget_ros.adapters import AdapterStore
from vlaforget_ros.errors import AdapterError

pytestmark = pytest.mark.ros


@pytest.fixture
def live(
    graph: Any, client: Any, tiny: Any, add_adapter: Callable[..., str]
) -> tuple[Any, dict[str, str], Signers]:
    store = AdapterStore(graph.folder / "store")
    digests = {
        name: add_adapter(store, tiny.digest, name, seed) for seed, name in enumerate(("mine", "theirs"))
    }
    signers = Signers(graph.folder)
    # The node has the clock of this machine.
    signers.now = datetime.now(UTC)
    signers.sign(store, digests["mine"], "safety")
    trust = str(signers.policy_file("safety"))
    graph.start("policy", checkpoint=str(tiny.folder), store=str(store.root), trust=trust)
    client.wait_until_ready(["policy_node"], 150.0)
    return client, digests, signers


def test_only_what_the_office_signed_is_swapped_in(live: tuple[Any, dict[str, str], Signers]) -> None:
    robot, digests, signers = live

    with pytest.raises(AdapterError) as caught:
        robot.swap("theirs")
    assert caught.value.code == 112
    assert robot.swap("mine").active_digest == digests["mine"]
    assert {info.name: info.signer for info in robot.list_adapters()} == {"mine": "safety", "theirs": ""}

    signers.policy_file("safety", revoked_adapters=[{"digest": digests["mine"], "reason": "drifts"}])
    robot.swap("base")
    with pytest.raises(AdapterError, match="drifts") as caught:
        robot.swap("mine")
    assert caught.value.code == 114
