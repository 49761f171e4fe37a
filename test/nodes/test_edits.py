"""The unlearning node beside a serving policy: what an edit loses, policy and store keep."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml
from live_parts import eventually

from vlaforget_ros.adapters import AdapterStore, LoraWeights
from vlaforget_ros.adapters.peft_format import write_peft
from vlaforget_ros.errors import AdapterError, CellError, UnlearningError

pytestmark = pytest.mark.ros

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def store(graph: Any) -> AdapterStore:
    return AdapterStore(graph.folder / "store")


@pytest.fixture(scope="module")
def robot(graph: Any, client: Any, tiny: Any, store: AdapterStore) -> Any:
    prepared = graph.folder / "edits" / "prepared"
    prepared.mkdir(parents=True)
    factors = (torch.ones(2, 128) * 0.01, torch.ones(128, 2) * 0.01)
    write_peft(
        LoraWeights.from_tensors(
            {"language_model.model.layers.1.self_attn.o_proj": factors}, alpha=4.0, base_digest=tiny.digest
        ),
        prepared,
    )
    graph.start("policy", checkpoint=str(tiny.folder), store=str(store.root))
    start_unlearning(graph, store)
    client.wait_until_ready(["policy_node", "unlearning_node"], 150.0)
    return client


def start_unlearning(graph: Any, store: AdapterStore) -> None:
    before = os.environ["PYTHONPATH"]
    os.environ["PYTHONPATH"] = f"{HERE}{os.pathsep}{before}"
    try:
        graph.start("unlearning", store=str(store.root), runs=str(graph.folder / "edits"), child="fake_child")
    finally:
        os.environ["PYTHONPATH"] = before


@pytest.fixture
def request_text(tiny: Any) -> Any:
    def make(reason: str) -> str:
        content = {
            "reason": reason,
            "base": str(tiny.folder),
            "bags": ["bag"],
            "forget": {"violation_rules": ["keep_out/hand_zone"]},
            "retain": {"outcome": "success"},
        }
        return yaml.safe_dump(content)

    return make


def test_an_edit_ends_as_an_adapter_that_can_be_swapped_in(
    robot: Any, graph: Any, store: AdapterStore, request_text: Any
) -> None:
    heard: list[Any] = []

    def listen(progress: Any) -> None:
        heard.append((progress.stage, progress.step, progress.total_steps, progress.losses, progress.doing))
        if len({doing for *_, doing in heard}) == 2:
            (graph.folder / "edits" / "careful" / "heard").touch()

    result = robot.edit(request_text("tell"), "careful", on_progress=listen)
    step = ("visual", 1, 9, {"forget": 2.5}, "")
    between = ("visual", 1, 9, {}, "measuring, forget: 3 of 8 frames")
    assert step in heard
    assert between in heard
    assert all(told in (step, between) for told in heard)
    assert result.metrics == {"fc": 100.0, "rc": 99.0}
    assert result.report == "report.html"
    assert store.resolve("careful") == result.adapter_digest
    # This child leaves no record to report on: the edit counts all the same.
    assert "has no report" in graph.log("unlearning")
    assert "a library printed this" in (graph.folder / "edits" / "careful" / "child.log").read_text()
    assert robot.swap("careful").active_digest == result.adapter_digest
    assert robot.rollback("test").active_digest == ""


def test_a_killed_child_leaves_policy_and_store(robot: Any, store: AdapterStore, request_text: Any) -> None:
    before = store.digests()
    with pytest.raises(UnlearningError, match="killed by signal SIGKILL") as caught:
        robot.edit(request_text("die"), "dies")
    assert caught.value.code == 308
    assert "allocating a lot" in str(caught.value)
    assert store.digests() == before
    assert robot.swap("base").active_digest == ""


def test_the_code_of_the_child_arrives(robot: Any, request_text: Any) -> None:
    with pytest.raises(UnlearningError, match="nothing to forget; remedy: look elsewhere") as caught:
        robot.edit(request_text("refuse"), "refused")
    assert caught.value.code == 302


@pytest.mark.parametrize(
    ("text", "name", "code", "says"),
    [
        ("reason: [\n", "x", 300, "YAML"),
        ("/no/such/file.yaml", "x", 300, "cannot be read"),
        (None, "../escape", 300, "folder"),
    ],
)
def test_a_bad_request_starts_nothing(
    robot: Any, graph: Any, request_text: Any, text: str | None, name: str, code: int, says: str
) -> None:
    before = sorted((graph.folder / "edits").iterdir())
    with pytest.raises(UnlearningError, match=says) as caught:
        robot.edit(text or request_text("succeed"), name)
    assert caught.value.code == code
    assert sorted((graph.folder / "edits").iterdir()) == before


def test_a_cancelled_edit_ends_its_child_and_only_one_runs(
    robot: Any, graph: Any, make_client: Any, request_text: Any
) -> None:
    errors: list[UnlearningError] = []
    started = threading.Event()
    other = make_client()

    def second() -> None:
        assert started.wait(60)
        with pytest.raises(UnlearningError) as busy:
            other.edit(request_text("succeed"), "late")
        errors.append(busy.value)

    thread = threading.Thread(target=second)
    thread.start()
    # The time runs out while the child hangs: the client then cancels.
    with pytest.raises(CellError, match="did not answer"):
        robot.edit(request_text("hang"), "hangs", on_progress=lambda _: started.set(), timeout_s=20.0)
    thread.join()
    assert [error.code for error in errors] == [309]
    child = int((graph.folder / "edits" / "hangs" / "pid").read_text())
    gone(child)

    def afterwards() -> str:
        try:
            return str(robot.edit(request_text("succeed"), "afterwards").adapter_digest)
        except UnlearningError as error:
            # A moment after its child has ended.
            if error.code != 309:
                raise
            return ""

    # The node is free again.
    assert eventually(lambda: bool(afterwards()))


def test_kill_9_of_the_unlearning_node_takes_the_child_along_and_nothing_else(
    robot: Any, graph: Any, store: AdapterStore, make_client: Any, request_text: Any
) -> None:
    """Runs last."""
    runner, started = make_client(), threading.Event()
    folder = graph.folder / "edits" / "orphan"

    def run() -> None:
        with pytest.raises(CellError):
            runner.edit(request_text("hang"), "orphan", on_progress=lambda _: started.set(), timeout_s=20.0)

    thread = threading.Thread(target=run)
    thread.start()
    assert started.wait(60)
    graph.kill("unlearning")
    gone(int((folder / "pid").read_text()))
    assert robot.swap("careful").previous_digest == ""
    assert robot.rollback("the unlearning node died").active_digest == ""
    with pytest.raises(AdapterError) as caught:
        robot.rollback("nothing left")
    assert caught.value.code == 109
    thread.join()
    assert [manifest.name for manifest in store.manifests()] == ["careful", "afterwards"]


def gone(process: int) -> None:
    """Wait until a process is no more (a zombie is no more, too)."""
    try:
        psutil.Process(process).wait(timeout=60)
    except psutil.NoSuchProcess:
        return
