"""The edit as a process: events, files, cancel, resume, coded errors."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vlaforget_ros.adapters.store import AdapterStore
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.unlearning import child

# What an edit costs on a busy machine is not the matter here: the longest test runs five of them in processes.
pytestmark = pytest.mark.timeout(600)


def events(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.fixture
def request_file(tmp_path: Path, request_text: str) -> Path:
    path = tmp_path / "request.yaml"
    path.write_text(request_text)
    return path


@pytest.fixture(autouse=True)
def signals_as_they_were() -> Any:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_an_edit_from_a_bag_to_an_adapter_in_the_store(
    request_file: Path, tmp_path: Path, base_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert child.main(["--request", str(request_file), "--out", str(out)]) == 0
    found = events(capsys)
    assert [event["event"] for event in found[:-1]] == ["progress"] * (len(found) - 1)
    steps = [event for event in found[:-1] if "doing" not in event]
    assert {event["stage"] for event in steps} == {"visual", "projector", "language"}
    assert set(steps[0]) == {
        "event", "stage", "round", "step", "total_steps", "losses", "eta_s", "peak_mb",
    }  # fmt: skip
    # What goes on between the steps is told as well, in order: of a large policy it takes minutes.
    told = [event["doing"].partition(":")[0] for event in found[:-1] if "doing" in event]
    assert told[:3] == ["loading the base weights", "reading the bags", "measuring, forget"]
    ranked = [told.index(f"ranking layers, {stage}") for stage in ("visual", "projector", "language")]
    assert 2 < ranked[0] < ranked[1] < ranked[2]
    done = found[-1]
    assert done["event"] == "done"
    manifest = AdapterStore(tmp_path / "store").add(Path(done["directory"]), done["provenance"])
    assert manifest.base_digest == VlaPolicy.load(base_dir).base_digest
    assert manifest.core.method == "vla_forget"
    assert set(manifest.core.datasets) == {"forget", "retain", "boundary", "counterfactual"}
    assert manifest.size_bytes < 2e6
    record = json.loads(Path(done["report"]).read_text())
    assert record["request_sha256"] == manifest.core.request_sha256
    assert len(record["rounds"]) == 3
    assert record["rounds"][0]["scores"]
    assert done["metrics"]["edit_seconds"] > 0
    assert done["metrics"]["fc"] == record["after"]["metrics"]["fc"]


# The process as it is, but for this: it tells every step, and waits for a line before it goes on after one of them. A
# signal that is sent meanwhile comes in that step, however fast or slow either process is.
HELD = """
import json, os, sys
from vlaforget_ros.unlearning import child

stage, steps = sys.argv.pop(1), int(sys.argv.pop(1))
tell, seen = child._emit, 0

def tell_and_wait(event):
    global seen
    tell(event)
    seen += event.get("stage") == stage and "doing" not in event
    if seen == steps:
        seen += 1
        sys.stdin.readline()

child._emit, child.PROGRESS_PERIOD_S = tell_and_wait, 0.0
status = child.main()
sys.stdout.flush()
os._exit(status)
"""


def run_child(request: Path, out: Path, *more: str) -> list[dict[str, Any]]:
    """Run the real process; its events, and its exit status last."""
    return _events([sys.executable, "-m", "vlaforget_ros.unlearning.child"], request, out, *more)


def stopped_child(
    request: Path, out: Path, *more: str, stage: str, step: int, number: int = signal.SIGTERM
) -> list[dict[str, Any]]:
    """The same, with a signal after so many steps of a stage."""
    command = [sys.executable, "-c", HELD, stage, str(step)]
    return _events(command, request, out, *more, stop=(stage, step, number))


def _steps(events: list[dict[str, Any]], stage: str) -> int:
    return sum(event.get("stage") == stage and "doing" not in event for event in events)


def _events(
    command: list[str], request: Path, out: Path, *more: str, stop: tuple[str, int, int] = ("", 0, 0)
) -> list[dict[str, Any]]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    stage, step, number = stop
    found: list[dict[str, Any]] = []
    with subprocess.Popen(
        [*command, "--request", str(request), "--out", str(out), *more],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        for line in process.stdout or ():
            found.append(json.loads(line))
            if step and _steps(found, stage) == step and process.stdin:
                process.send_signal(number)
                with contextlib.suppress(BrokenPipeError):  # it is dead
                    process.stdin.close()
                step = 0
    return [*found, {"status": process.returncode}]


def test_sigterm_cancels_and_resume_ends_with_the_same_bytes(
    request_file: Path, tmp_path: Path, request_text: str
) -> None:
    request_file.write_text(request_text.replace("steps_language: 2", "steps_language: 8"))
    whole = run_child(request_file, tmp_path / "whole")
    assert (whole[-2]["event"], whole[-1]["status"]) == ("done", 0)
    stopped = stopped_child(request_file, tmp_path / "stopped", stage="language", step=3)
    assert (stopped[-2]["event"], stopped[-2]["code"], stopped[-1]["status"]) == ("error", 305, 1)
    stages = sorted(path.name for path in (tmp_path / "stopped/stages").glob("*.json"))
    assert stages == ["projector-1.json", "visual-1.json"]
    resumed = run_child(request_file, tmp_path / "stopped", "--resume")
    assert {event.get("stage") for event in resumed[:-2] if "doing" not in event} == {"language"}
    assert resumed[-2]["provenance"] == whole[-2]["provenance"]
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        left, right = (tmp_path / folder / "adapter" / name for folder in ("whole", "stopped"))
        assert left.read_bytes() == right.read_bytes()


def test_kill_9_in_every_stage_ends_with_the_same_bytes(
    request_file: Path, tmp_path: Path, request_text: str
) -> None:
    # Each stage long enough to be killed in, each step on disk.
    longer = request_text.replace("steps_visual: 2, steps_projector: 2, steps_language: 2", "@")
    request_file.write_text(
        longer.replace("@", "steps_visual: 6, steps_projector: 6, steps_language: 6, checkpoint_steps: 1")
    )
    whole = run_child(request_file, tmp_path / "whole")
    assert whole[-1]["status"] == 0
    out, resume = tmp_path / "killed", ()
    for stage in ("visual", "projector", "language"):
        killed = stopped_child(request_file, out, *resume, stage=stage, step=3, number=signal.SIGKILL)
        assert killed[-1]["status"] == -signal.SIGKILL
        assert _steps(killed, stage) == 3
        assert not (out / "edit.json").exists()
        resume = ("--resume",)
    assert run_child(request_file, out, *resume)[-1]["status"] == 0
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        left, right = (folder / "adapter" / name for folder in (tmp_path / "whole", out))
        assert left.read_bytes() == right.read_bytes()


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("kind: transplant", "kind: magic", 300),
        ("hand_zone", "other_rule", 302),
        ("name: sticker", "name: sticker\nstart_from: stable", 300),
        ("name: sticker", "name: sticker\nbudget: {memory_mb: 1}", 306),
        ("base: ", "base: /nowhere", 207),
    ],
)
def test_what_goes_wrong_is_one_error_event_with_a_code(
    request_file: Path, tmp_path: Path, request_text: str, capsys: pytest.CaptureFixture[str],
    old: str, new: str, code: int,
) -> None:  # fmt: skip
    request_file.write_text(request_text.replace(old, new))
    assert child.main(["--request", str(request_file), "--out", str(tmp_path / "out")]) == 1
    *before, event = events(capsys)
    assert (event["event"], event["code"]) == ("error", code)
    assert all(set(told) == {"event", "losses", "peak_mb", "doing"} for told in before)
    assert not (tmp_path / "out" / "adapter").exists()


def test_an_edit_can_start_from_a_stored_adapter_of_the_same_base_only(
    request_file: Path, tmp_path: Path, request_text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert child.main(["--request", str(request_file), "--out", str(tmp_path / "a")]) == 0
    done = events(capsys)[-1]
    store = tmp_path / "store"
    first = AdapterStore(store).add(Path(done["directory"]), done["provenance"])
    request_file.write_text(request_text + f"start_from: {first.digest[:12]}\n")
    arguments = ["--request", str(request_file), "--out", str(tmp_path / "b"), "--store", str(store)]
    assert child.main(arguments) == 0
    second = events(capsys)[-1]
    assert second["provenance"]["parent_digest"] == first.digest
    assert AdapterStore(store).add(Path(second["directory"]), second["provenance"]).digest != first.digest
    config = Path(done["directory"]) / "adapter_config.json"
    config.write_text(config.read_text().replace(first.base_digest, "0" * 64))
    request_file.write_text(request_text + f"start_from: {done['directory']}\n")
    assert child.main(["--request", str(request_file), "--out", str(tmp_path / "c")]) == 1
    assert events(capsys)[-1]["code"] == 101
