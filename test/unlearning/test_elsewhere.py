"""Edits on a device other than the CPU: every tensor is where it belongs, and the figures are the CPU's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from elsewhere import ELSEWHERE, elsewhere
from method_parts import small_settings

from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.unlearning.data import EditData
from vlaforget_ros.unlearning.edit import EditResult, EditSettings, edit
from vlaforget_ros.unlearning.guard import Guard
from vlaforget_ros.unlearning.methods import METHODS


@pytest.fixture
def same_each_time() -> Iterator[None]:
    """As in the process of an edit."""
    with deterministic():
        yield


@contextmanager
def deterministic() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def edited(base_dir: Path, data: EditData, settings: EditSettings, out: Path) -> EditResult:
    return edit(VlaPolicy.load(base_dir), data, settings, out, Guard(3600, 1e6))


@pytest.mark.usefixtures("same_each_time")
@pytest.mark.parametrize("key", METHODS)
def test_a_method_edits_there_as_it_does_here(
    key: str,
    base_dir: Path,
    data: EditData,
    settings: EditSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = small_settings(key, settings)
    here = edited(base_dir, data, own, tmp_path / "here")
    with elsewhere(monkeypatch):
        there = edited(base_dir, data, own, tmp_path / "there")
    assert there.layers == here.layers
    assert there.after.undesired == pytest.approx(here.after.undesired, rel=1e-3)
    assert there.weights.modules.keys() == here.weights.modules.keys()


def test_what_mixes_devices_fails_there(base_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with elsewhere(monkeypatch):
        policy = VlaPolicy.load(base_dir)
        assert policy.device.type == ELSEWHERE
        weight = next(policy.model.parameters())
        with pytest.raises(RuntimeError, match="same device"):
            _ = weight + torch.ones(weight.shape)
        with pytest.raises(RuntimeError, match="same device"):
            weight.data[torch.tensor([0])] = torch.ones(weight[:1].shape)
        with pytest.raises((TypeError, RuntimeError)):
            weight.detach().numpy()
        with pytest.raises(RuntimeError, match="generator"):
            torch.rand(3, generator=torch.Generator(), device=ELSEWHERE)
        with pytest.raises(RuntimeError, match="deterministic"), deterministic():
            weight.detach().cumsum(0)
