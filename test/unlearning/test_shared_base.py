"""An edit on the weights of a policy in another process: the same bytes, nothing written, and what if it goes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from edit_parts import request_for, write_bag
from lending_parts import Lending, lend, sockets
from method_parts import bits, small_settings
from released_parts import write_released

from vlaforget_ros.errors import ErrorCode, UnlearningError
from vlaforget_ros.policy.borrower import borrow
from vlaforget_ros.policy.lender import Lender
from vlaforget_ros.policy.options import set_options
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.policy.regions import weights_of
from vlaforget_ros.unlearning import base as base_module
from vlaforget_ros.unlearning import child
from vlaforget_ros.unlearning.data import EditData
from vlaforget_ros.unlearning.edit import EditSettings, edit
from vlaforget_ros.unlearning.guard import Guard, resident_mb
from vlaforget_ros.unlearning.lora import fold, folded
from vlaforget_ros.unlearning.methods import METHODS
from vlaforget_ros.unlearning.process import EditProcess, Weights, edit_command
from vlaforget_ros.unlearning.progress import Progress
from vlaforget_ros.unlearning.request import read_request

__all__ = ["lend", "sockets"]


def _request(base: Path, tmp_path: Path, **changes: Any) -> Path:
    path = tmp_path / "request.yaml"
    values = yaml.safe_load(request_for(base, write_bag(tmp_path / "bag", dims=7)))
    path.write_text(yaml.safe_dump({**values, **changes}))
    return path


@pytest.fixture
def converted(tmp_path: Path) -> Path:
    """Float32 in its files, bfloat16 in memory: loading makes a copy."""
    write_released(tmp_path / "base")
    set_options(tmp_path / "base", dtype="bfloat16")
    return tmp_path / "base"


def _edited(request: Path, out: Path, *more: str) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "vlaforget_ros.unlearning.child", "--request", str(request)]
    done = subprocess.run([*command, "--out", str(out), *more], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_an_edit_on_shared_weights_ends_with_the_bytes_of_one_on_its_own(
    converted: Path, tmp_path: Path, lend: Callable[..., Lending]
) -> None:
    lender = lend(converted)
    request = _request(converted, tmp_path)
    runs = _edited(request, tmp_path / "shared"), _edited(request, tmp_path / "own", "--own-weights")
    shared, own = ([event for event in events if "doing" not in event] for events in runs)
    assert (shared[0]["event"], shared[0]["shared"], shared[0]["lender"]) == ("weights", True, lender.pid)
    assert (own[0]["shared"], "switched off" in own[0]["message"]) == (False, True)
    assert shared[-1]["provenance"] == own[-1]["provenance"]
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        left, right = ((tmp_path / out / "adapter" / name).read_bytes() for out in ("shared", "own"))
        assert left == right


@pytest.mark.parametrize("key", METHODS)
def test_no_method_writes_to_the_weights(
    key: str, base_dir: Path, data: EditData, settings: EditSettings, tmp_path: Path, sockets: Path
) -> None:
    with Lender(VlaPolicy.load(base_dir)):
        policy = borrow(base_dir, "cpu").policy
        before = _written()
        whole = edit(policy, data, small_settings(key, settings), tmp_path / "edit", Guard(3600, 1e6))
        # An edit that starts from an adapter works on sums; so does the reading of its bags.
        after = borrow(base_dir, "cpu").policy
        with folded(after.model, whole.weights):
            assert _written() == 0
        fold(after.model, whole.weights)
        assert _written() == before == 0
    own = edit(
        VlaPolicy.load(base_dir), data, small_settings(key, settings), tmp_path / "own", Guard(3600, 1e6)
    )
    same = [torch.equal(a, b) for p, q in zip(bits(whole).values(), bits(own).values(), strict=True)
            for a, b in zip(p, q, strict=True)]  # fmt: skip
    assert all(same)


def _written() -> int:
    """Kilobytes of the borrowed file that this process has copies of, because it wrote to them."""
    inside, found = False, 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if line.split()[0].count("-") == 1 and not line.split()[0].endswith(":"):
            inside = "vlaforget-weights" in line
        elif inside and line.startswith("Anonymous:"):
            found += int(line.split()[1])
    return found


def test_a_write_would_be_seen(base_dir: Path, sockets: Path) -> None:
    with Lender(VlaPolicy.load(base_dir)):
        policy = borrow(base_dir, "cpu").policy
        policy.model.projector.fc1.weight.data.add_(1.0)
        assert _written() > 0


def test_when_memory_goes_with_its_lender_finished_stages_are_kept_and_resumed_on_own_weights(
    base_dir: Path, data: EditData, settings: EditSettings, tmp_path: Path, lend: Callable[..., Lending]
) -> None:
    whole = edit(VlaPolicy.load(base_dir), data, settings, tmp_path / "whole", Guard(3600, 1e6))
    lender = lend(base_dir, tied=True)
    held = borrow(base_dir, "cpu")

    def kill(progress: Progress) -> None:
        if progress.stage == "language":
            lender.kill()

    guard = Guard(3600, 1e6, lost=held.gone)
    with pytest.raises(UnlearningError, match="policy whose weights the edit shared is gone") as caught:
        edit(held.policy, data, settings, tmp_path / "edit", guard, kill)
    assert caught.value.code == ErrorCode.UNLEARNING_KILLED
    stages = sorted(path.stem for path in (tmp_path / "edit/stages").glob("*.json"))
    assert stages
    assert not [name for name in stages if "language" in name], "nothing that was computed since is stored"
    again = edit(VlaPolicy.load(base_dir), data, settings, tmp_path / "edit", Guard(3600, 1e6), resume=True)
    assert bits(again).keys() == bits(whole).keys()
    for name, (a, b) in bits(again).items():
        assert torch.equal(a, bits(whole)[name][0])
        assert torch.equal(b, bits(whole)[name][1])


def test_without_a_lender_an_edit_has_its_own_copy_and_says_why(
    converted: Path, tmp_path: Path, sockets: Path
) -> None:
    request = read_request(str(_request(converted, tmp_path)))
    with base_module.base_of(request, share=True) as base:
        assert not base.shared
        assert not base.lost()
        assert "no policy on this host lends any" in base.message
    with Lender(VlaPolicy.load(converted)), base_module.base_of(request, share=True) as base:
        assert base.shared


def test_what_is_missing_is_said_where_nobody_lends(
    converted: Path, tmp_path: Path, sockets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = _request(converted, tmp_path, budget={"memory_mb": 3})
    assert child.main(["--request", str(small), "--out", str(tmp_path / "out")]) == 1
    event = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert event["code"] == ErrorCode.UNLEARNING_OUT_OF_MEMORY
    assert "MB are missing" in event["message"]
    assert "no policy on this host lends any" in event["message"]


def test_borrowed_weights_are_not_on_the_budget_of_an_edit(base_dir: Path, sockets: Path) -> None:
    with Lender(VlaPolicy.load(base_dir)) as lender:
        policy = borrow(base_dir, "cpu").policy
        before = resident_mb()
        read = sum(float(weight.sum()) for weight in weights_of(policy.model).values())
        assert read != 0.0
        assert resident_mb() - before < 0.5 * lender.bytes / 1e6 + 1.0


def test_the_process_of_an_edit_tells_whose_weights_it_has(tmp_path: Path) -> None:
    line = {"event": "weights", "shared": True, "lender": 7, "message": "those of process 7"}
    script = f"import json; print(json.dumps({line!r}))"
    told: list[str] = []
    edited = EditProcess([sys.executable, "-c", script], tmp_path / "log", told.append)
    with pytest.raises(UnlearningError):
        list(edited.events())
    assert edited.weights == Weights(shared=True, lender=7, message="those of process 7")
    assert told == ["those of process 7"]
    assert (tmp_path / "log").read_text() == ""


def test_sharing_can_be_switched_off_on_the_command_line(tmp_path: Path) -> None:
    command = edit_command("module", tmp_path, tmp_path, tmp_path, False, own_weights=True)
    assert "--own-weights" in command
    assert "--own-weights" not in edit_command("module", tmp_path, tmp_path, tmp_path, False)
