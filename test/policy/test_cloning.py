from pathlib import Path

import numpy as np
import pytest
import torch

from vlaforget_ros.episodes import FrameSet
from vlaforget_ros.errors import ErrorCode, PolicyError
from vlaforget_ros.policy.cloning import CloningProgress, CloningSettings, clone
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.policy.tiny import new_tiny

TEXTS = ("open the faucet", "close the window")


def frames() -> FrameSet:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (32, 64, 64, 3), dtype=np.uint8)
    index = rng.integers(0, 2, 32)
    actions = np.where(index[:, None] == 0, [0.01, 0, 0, 1], [-0.01, 0, 0, 0]).astype(np.float32)
    return FrameSet(images, tuple(TEXTS[i] for i in index), actions)


def fresh() -> VlaPolicy:
    return VlaPolicy(*new_tiny(TEXTS, seed=0), "")


def settings(**changes: object) -> CloningSettings:
    values = {"steps": 12, "batch_size": 8, "save_every": 4, "warmup": 2, "bfloat16": False, **changes}
    return CloningSettings(**values)  # type: ignore[arg-type]


def test_learns_which_instruction_means_which_motion(tmp_path: Path) -> None:
    policy, data = fresh(), frames()
    seen: list[CloningProgress] = []
    clone(policy, data, settings(steps=60, batch_size=16, save_every=100), tmp_path, progress=seen.append)
    assert seen[-1].step == 60
    assert seen[-1].loss < seen[0].loss
    loaded = VlaPolicy.load(tmp_path)
    some = data.take(np.arange(16))
    predicted = np.array([p.action[0] for p in loaded.act_batch(some.images, some.instructions)])
    assert np.mean(np.sign(predicted) == np.sign(some.actions[:, 0])) >= 0.9


def test_a_stopped_run_resumes_to_the_same_weights(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    whole = fresh()
    clone(whole, frames(), settings(), tmp_path / "whole")

    class Stop(Exception):
        pass

    def stop(line: CloningProgress) -> None:
        raise Stop

    stopped = fresh()
    # The log line of step 12 comes after the state of step 8 was saved: the last 4 steps are lost.
    with pytest.raises(Stop):
        clone(stopped, frames(), settings(), tmp_path / "stopped", progress=stop)
    assert (tmp_path / "stopped" / "run" / "state.json").is_file()
    resumed = fresh()
    clone(resumed, frames(), settings(), tmp_path / "stopped", resume=True)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name
    assert not (tmp_path / "stopped" / "run").exists()


def test_resume_refuses_other_settings_and_nothing(tmp_path: Path) -> None:
    with pytest.raises(PolicyError) as caught:
        clone(fresh(), frames(), settings(), tmp_path / "none", resume=True)
    assert caught.value.code == ErrorCode.POLICY_TRAINING


def test_no_demonstrations(tmp_path: Path) -> None:
    nothing = frames().take(np.zeros(0, dtype=np.int64))
    with pytest.raises(PolicyError, match="no demonstrations"):
        clone(fresh(), nothing, settings(), tmp_path)
