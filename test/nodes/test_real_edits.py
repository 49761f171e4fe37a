"""Real edits through the action of the unlearning node: any method, a report at the end, resume after a kill."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from edit_parts import base_dir, request_for, write_bag

from vlaforget_ros.adapters import AdapterStore
from vlaforget_ros.errors import UnlearningError

pytestmark = [pytest.mark.ros, pytest.mark.timeout(900)]
__all__ = ["base_dir"]


@pytest.fixture(scope="module")
def request_values(graph: Any, base_dir: Path) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load(request_for(base_dir, write_bag(graph.folder / "bag"), steps=8))
    return values


@pytest.fixture(scope="module")
def robot(graph: Any, client: Any) -> Any:
    folders = {"store": str(graph.folder / "store"), "runs": str(graph.folder / "edits")}
    graph.start("unlearning", **folders)
    client.wait_until_ready(["unlearning_node"], 150.0)
    return client


@pytest.mark.parametrize(("method", "parameters"), [("npo", {"steps": 2, "rank": 4}), ("ssd", {})])
def test_a_method_of_the_request_ends_in_the_store_with_a_report(
    robot: Any, graph: Any, request_values: dict[str, Any], method: str, parameters: dict[str, Any]
) -> None:
    text = yaml.safe_dump({**request_values, "method": method, "parameters": parameters})
    result = robot.edit(text, f"by-{method}", timeout_s=400.0)
    manifest = AdapterStore(graph.folder / "store").manifest(result.adapter_digest)
    assert manifest.core.method == method
    page = graph.folder / "edits" / f"by-{method}" / "report.html"
    assert result.adapter_digest in page.read_text()
    assert f"report {page}" in graph.log("unlearning")


def test_an_edit_killed_in_a_stage_goes_on_to_the_same_adapter(
    robot: Any, graph: Any, request_values: dict[str, Any]
) -> None:
    text = yaml.safe_dump(request_values)
    whole = robot.edit(text, "whole", timeout_s=400.0)

    killed = threading.Event()

    def kill(progress: Any) -> None:
        # Once: of a child that is dead already more may be told yet, and its number may be another process's.
        if progress.stage == "language" and not killed.is_set():
            killed.set()
            pid = re.findall(r"edit halved runs as process (\d+)", graph.log("unlearning"))[-1]
            os.kill(int(pid), signal.SIGKILL)

    with pytest.raises(UnlearningError, match="SIGKILL") as caught:
        robot.edit(text, "halved", on_progress=kill, timeout_s=400.0)
    assert caught.value.code == 308
    resumed = robot.edit(text, "halved", resume=True, timeout_s=400.0)
    store = AdapterStore(graph.folder / "store")
    one, other = (
        (store.path(result.adapter_digest) / "adapter_model.safetensors").read_bytes()
        for result in (whole, resumed)
    )
    assert one == other
    lines = (graph.folder / "edits" / "halved" / "log.jsonl").read_text().splitlines()
    rounds = [event["stage"] for event in map(json.loads, lines) if event["event"] == "round"]
    assert rounds == ["visual", "projector", "language"], "no finished stage was run again"
