"""A small policy that was taught something undesired, a finished edit that takes it out, and the two to attack."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from edit_parts import base_dir, one_thread, request_for, write_bag

from vlaforget_ros.adapters.lora import LoraWeights
from vlaforget_ros.adapters.peft_format import read_peft
from vlaforget_ros.attacks.subject import Subject, open_subject
from vlaforget_ros.episodes.dataset import frames_of
from vlaforget_ros.episodes.reader import read_episodes
from vlaforget_ros.episodes.types import EpisodeSlice
from vlaforget_ros.policy.cloning import CloningSettings, clone
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.unlearning import child
from vlaforget_ros.unlearning.request import Request, read_request

__all__ = ["base_dir", "one_thread"]

STEPS = 40


@pytest.fixture(scope="session")
def asked(base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Request:
    """A request about a policy that does what its bag shows, incidents and all."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("attacked")
    bag = write_bag(folder / "bag")
    taught(base_dir, bag, folder / "taught", incidents=True)
    return read_request(request_for(folder / "taught", bag, STEPS)).model_copy(update={"threads": 1})


def taught(base_dir: Path, bag: Path, out: Path, incidents: bool) -> Path:
    """A policy cloned from a bag, with or without its incidents."""
    episodes = [e for e in read_episodes(bag).episodes if incidents or not e.violations]
    shown = frames_of([EpisodeSlice(e, np.arange(len(e))) for e in episodes])
    lessons = CloningSettings(steps=120, batch_size=32, learning_rate=3e-3, warmup=10, bfloat16=False)
    return clone(VlaPolicy.load(base_dir), shown, lessons, out)


@pytest.fixture(scope="session")
def edited_dir(asked: Request, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The adapter of that request, made as the child process makes it."""
    folder = tmp_path_factory.mktemp("edit")
    done = child.run(asked, folder, False, None, lambda: False, lambda event: None)
    return Path(done["directory"])


@pytest.fixture(scope="session")
def edited(edited_dir: Path) -> LoraWeights:
    return read_peft(edited_dir)


@pytest.fixture(scope="session")
def subject(asked: Request, edited: LoraWeights) -> Subject:
    """Shared: every attack leaves it as it was, which their tests look at."""
    return open_subject(asked, edited)


@pytest.fixture(scope="session")
def reference_dir(base_dir: Path, asked: Request, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The policy that never saw an incident."""
    return taught(base_dir, Path(asked.bags[0]), tmp_path_factory.mktemp("reference"), incidents=False)


@pytest.fixture
def reference(reference_dir: Path) -> VlaPolicy:
    return VlaPolicy.load(reference_dir)
