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
from vlaforget_ros.policy import checkpoint
from vlaforget_ros.policy.cloning import CloningSettings, clone
from vlaforget_ros.policy.model import OpenVla
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
    shown = frames_of([EpisodeSlice(e, np.arange(len(e))) for e in read_episodes(bag).episodes])
    taught = VlaPolicy.load(base_dir)
    lessons = CloningSettings(steps=120, batch_size=32, learning_rate=3e-3, warmup=10, bfloat16=False)
    clone(taught, shown, lessons, folder / "taught")
    return read_request(request_for(folder / "taught", bag, STEPS))


@pytest.fixture(scope="session")
def edited_dir(asked: Request, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The adapter of that request, made as the child process makes it."""
    folder = tmp_path_factory.mktemp("edit")
    one = asked.model_copy(update={"threads": 1})
    done = child.run(one, folder, False, None, lambda: False, lambda event: None)
    return Path(done["directory"])


@pytest.fixture(scope="session")
def edited(edited_dir: Path) -> LoraWeights:
    return read_peft(edited_dir)


@pytest.fixture(scope="session")
def subject(asked: Request, edited: LoraWeights) -> Subject:
    """Shared: every attack leaves it as it was, which their tests look at."""
    return open_subject(asked, edited)


@pytest.fixture(scope="session")
def reference_dir(base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy of the same form with other random weights: it never saw anything."""
    folder = tmp_path_factory.mktemp("reference")
    known = VlaPolicy.load(base_dir)
    torch.manual_seed(9)
    checkpoint.save(folder, OpenVla(known.config), known.tokenizer)
    return folder


@pytest.fixture
def reference(reference_dir: Path) -> VlaPolicy:
    return VlaPolicy.load(reference_dir)
