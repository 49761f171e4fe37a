"""Retraining without the forget set, in small: everything but D_f is learnt, and a stopped run goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlaforget_ros.errors import UnlearningError
from vlaforget_ros.policy.cloning import CloningProgress, CloningSettings
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.unlearning import retrain as module
from vlaforget_ros.unlearning.methods import method_class
from vlaforget_ros.unlearning.request import read_request
from vlaforget_ros.unlearning.retrain import retrain
from vlaforget_ros.unlearning.sources import gather


def test_a_new_checkpoint_is_trained_on_everything_but_the_forget_set(
    request_text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = read_request(request_text)
    lines: list[CloningProgress] = []
    seen: list[int] = []
    clone = module.clone

    def counted(policy, frames, *arguments):  # type: ignore[no-untyped-def]
        seen.append(len(frames))
        return clone(policy, frames, *arguments)

    monkeypatch.setattr(module, "clone", counted)
    settings = CloningSettings(steps=30, batch_size=16, seed=5, bfloat16=False)
    out = retrain(request, [], settings, tmp_path / "fresh", progress=lines.append)
    base, fresh = VlaPolicy.load(Path(request.base)), VlaPolicy.load(out)
    sets = gather(request, base).data.sets()
    assert seen == [sum(len(frames) for name, frames in sets.items() if name != "forget")]
    assert fresh.config == base.config
    assert fresh.base_digest != base.base_digest
    assert lines[-1].step == 30
    assert lines[-1].loss < 5.6  # log(256), the loss of a policy that knows nothing, is 5.5


def test_as_a_method_it_says_which_command_to_use() -> None:
    with pytest.raises(UnlearningError, match="use `vlaforget retrain`"):
        method_class("retrain")
