"""A policy node that lends its weights and an unlearning node whose edit works on them, found without being told."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from edit_parts import request_for, write_bag
from live_parts import start_policy
from released_parts import write_released

from vlaforget_ros.adapters import AdapterStore
from vlaforget_ros.policy.options import set_options

pytestmark = pytest.mark.ros


@pytest.fixture(scope="module")
def base(graph: Any) -> Path:
    """Float32 in its files, bfloat16 in memory."""
    write_released(graph.folder / "base")
    set_options(graph.folder / "base", dtype="bfloat16")
    return graph.folder / "base"


@pytest.fixture(scope="module")
def robot(graph: Any, client: Any, base: Path) -> Any:
    start_policy(graph, base)
    graph.start("unlearning", store=str(graph.folder / "store"), runs=str(graph.folder / "edits"))
    client.wait_until_ready(["policy_node", "unlearning_node"], 120.0)
    return client


def test_the_edit_works_on_the_weights_of_the_policy(robot: Any, graph: Any, base: Path) -> None:
    values = yaml.safe_load(request_for(base, write_bag(graph.folder / "bag", dims=7)))
    small = {"method": "npo", "parameters": {"steps": 2, "rank": 4}}
    result = robot.edit(yaml.safe_dump({**values, **small}), "beside", timeout_s=120.0)
    assert AdapterStore(graph.folder / "store").manifest(result.adapter_digest).core.method == "npo"
    assert re.search(r"lending \d+ MB of base weights to edits on this host", graph.log("policy"))
    assert re.search(r"the base weights \(\d+ MB\) are those of process \d+", graph.log("unlearning"))
