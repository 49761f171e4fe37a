"""Serving on a device other than the CPU: every tensor is where it belongs, and the actions are the CPU's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from elsewhere import elsewhere
from released_parts import INSTRUCTION, INSTRUCTIONS, write_oft, write_released
from torch import nn

from vlaforget_ros.adapters.lora import LoraWeights
from vlaforget_ros.bench import random_pi0
from vlaforget_ros.policy import checkpoint
from vlaforget_ros.policy.merged import FixedSlots, MergedSlots
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.policy.slots import AdapterSlots
from vlaforget_ros.policy.stacked import StackedSlots
from vlaforget_ros.policy.tiny import new_tiny

KINDS = [AdapterSlots, MergedSlots, FixedSlots, StackedSlots]


def write_tiny(directory: Path) -> None:
    checkpoint.save(directory, *new_tiny(INSTRUCTIONS, seed=1))


def write_pi0(directory: Path) -> None:
    random_pi0.write(directory, INSTRUCTIONS, random_pi0.Robot(state=2, chunk=3, bound=0.02))


@pytest.fixture(scope="module", params=[write_tiny, write_released, write_oft, write_pi0])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    write: Callable[[Path], None] = request.param
    directory = tmp_path_factory.mktemp("base") / "base"
    write(directory)
    return directory


def adapter(model: nn.Module) -> LoraWeights:
    generator = torch.Generator().manual_seed(3)
    tensors = {
        name: (
            0.2 * torch.randn(4, module.in_features, generator=generator),
            0.2 * torch.randn(module.out_features, 4, generator=generator),
        )
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not name.endswith("lm_head")
    }
    return LoraWeights.from_tensors(tensors, alpha=8.0)


def answers(policy: VlaPolicy, kind: type[AdapterSlots], weights: LoraWeights) -> list[tuple[int, ...]]:
    """Tokens of the base, with an adapter, after a rollback, and of a batch whose rows have adapters of their own."""
    images = np.random.default_rng(0).integers(0, 256, (2, *policy.config.view_shape), dtype=np.uint8)
    state = policy.config.zero_state
    slots = kind(policy.model)
    found = [policy.act(images[0], INSTRUCTION, state).tokens]
    staged = slots.stage(weights)
    for active in (staged, None):
        slots.activate(active)
        found.append(policy.act(images[0], INSTRUCTION, state).tokens)
    states = None if state is None else np.stack([state, state])
    if slots.mixes:
        slots.activate_rows([staged, None])
        found += [answer.tokens for answer in policy.act_batch(images, [INSTRUCTION] * 2, states)]
    slots.remove()
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_policy_serves_there_as_it_does_here(
    kind: type[AdapterSlots], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = VlaPolicy.load(folder)
    weights = adapter(policy.model)
    here = answers(policy, kind, weights)
    assert here[1] != here[0] == here[2]
    with elsewhere(monkeypatch):
        assert answers(VlaPolicy.load(folder), kind, weights) == here
