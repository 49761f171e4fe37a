"""A device that is not there, a type that it does not know and weights without room: refused before any is read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from vlaforget_ros.bench.random_release import released
from vlaforget_ros.errors import ErrorCode, PolicyError
from vlaforget_ros.policy import checkpoint
from vlaforget_ros.policy.options import FILE as OPTIONS
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.policy.room import copied_mb, require_device, require_dtype, require_memory
from vlaforget_ros.policy.shards import Shards
from vlaforget_ros.policy.weight_only import Weights, bytes_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with released("small", "cpu", ("open the faucet",), folder=tmp_path_factory.mktemp("made")) as release:
        return release.directory.rename(tmp_path_factory.mktemp("kept") / "base")


@pytest.fixture
def half(folder: Path) -> Iterator[Path]:
    """For the length of a test the folder asks for bfloat16."""
    path = folder / OPTIONS
    before = path.read_text()
    path.write_text(yaml.safe_dump({**yaml.safe_load(before), "dtype": "bfloat16"}))
    yield folder
    path.write_text(before)


@pytest.mark.parametrize("device", [f"cuda:{torch.cuda.device_count()}", "tpu", "mps", ""])
def test_a_device_that_is_not_there_is_refused_with_those_that_are(device: str, folder: Path) -> None:
    with pytest.raises(PolicyError, match=r"device; .*limit: cpu") as caught:
        VlaPolicy.load(folder, device)
    assert caught.value.code == ErrorCode.POLICY_BAD_PARAMETER
    assert caught.value.remedy


def test_devices_that_are_there_are_taken() -> None:
    for device in ("cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))):
        require_device(device)


def test_a_type_that_the_gpu_does_not_know_is_refused(folder: Path, half: Path) -> None:
    with pytest.raises(PolicyError, match="bfloat16 on cuda") as caught:
        require_dtype(half, "cuda", lambda: False)
    assert caught.value.code == ErrorCode.POLICY_BAD_PARAMETER
    require_dtype(half, "cuda", lambda: True)
    require_dtype(half, "cpu", lambda: False)


def test_stored_single_precision_asks_for_no_bfloat16(folder: Path) -> None:
    require_dtype(folder, "cuda", lambda: False)


def test_what_is_missing_is_said_before_a_weight_is_read(folder: Path) -> None:
    stored = Shards.open(folder).bytes / 1e6
    require_memory(folder, "cuda", free=lambda device: stored + 1)
    require_memory(folder, "cpu", free=lambda device: 0.0)
    with pytest.raises(PolicyError, match="free on cuda: 50 MB are missing") as caught:
        require_memory(folder, "cuda", free=lambda device: stored - 50)
    assert caught.value.code == ErrorCode.POLICY_OUT_OF_MEMORY
    assert "int8" in caught.value.remedy


def test_loading_asks_for_room(half: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 1_000_000}))
    with pytest.raises(PolicyError, match="no room for the policy's weights"):
        VlaPolicy.load(half)


def test_memory_that_another_process_took_meanwhile_is_the_same_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(checkpoint, "load_network", full)
    with pytest.raises(PolicyError) as caught:
        VlaPolicy.load(folder)
    assert caught.value.code == ErrorCode.POLICY_OUT_OF_MEMORY
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("weights", ["int8", "nf4"])
def test_rounded_weights_need_at_least_what_is_asked_for(folder: Path, weights: Weights) -> None:
    held = bytes_of(VlaPolicy.load(folder, weights=weights).model) / 1e6
    needed = copied_mb(folder, "cuda", weights)
    assert 0.8 * held < needed <= held
    assert 0 < copied_mb(folder, "cpu", weights) < needed < copied_mb(folder, "cuda")
