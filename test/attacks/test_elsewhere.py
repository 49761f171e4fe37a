"""Attacks on a device other than the CPU: every tensor is where it belongs, and the figures are the CPU's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from elsewhere import ELSEWHERE, elsewhere

from vlaforget_ros.adapters.lora import LoraWeights
from vlaforget_ros.attacks import membership, quantise, relearn
from vlaforget_ros.attacks.findings import Findings
from vlaforget_ros.attacks.relearn import RelearnSettings
from vlaforget_ros.attacks.subject import Subject, open_subject
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.unlearning.request import Request

SETTINGS = RelearnSettings(points=(0, 3), rank=4, alpha=8, learning_rate=0.01, batch=16, seed=5)
ATTACKS: dict[str, Callable[[Subject, VlaPolicy], Findings]] = {
    "quantise": lambda subject, _: quantise.attack(subject),
    "relearn": lambda subject, reference: relearn.attack(subject, reference, SETTINGS),
    "membership": membership.attack,
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_finds_there_what_it_finds_here(
    name: str, asked: Request, edited: LoraWeights, reference_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def figures() -> dict[str, float]:
        subject, reference = open_subject(asked, edited), VlaPolicy.load(reference_dir)
        return {figure.name: figure.value for figure in ATTACKS[name](subject, reference).figures}

    here = figures()
    with elsewhere(monkeypatch):
        there = figures()
        assert VlaPolicy.load(reference_dir).device == torch.device(ELSEWHERE, 0)
    assert there == pytest.approx(here, rel=0.02, abs=1e-3)
