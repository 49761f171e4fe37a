"""The benchmarks that wait for a GPU, on a device other than the CPU: every tensor is where it belongs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from elsewhere import ELSEWHERE, elsewhere
from released_parts import write_oft, write_released

from vlaforget_ros.bench import edit, inference
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.unlearning.methods.vla_forget import VlaForgetParameters
from vlaforget_ros.unlearning.parameters import STAGES


@pytest.mark.parametrize("write", [write_released, write_oft])
def test_both_forms_of_a_step_have_the_same_gradients_there(
    write: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "base")
    sizes = {f"batch_{name}": 2 for name in ("forget", "retain", "boundary", "counterfactual")}
    parameters = VlaForgetParameters(**sizes)  # type: ignore[arg-type]
    texts = ("open the faucet", "close the window")
    with elsewhere(monkeypatch):
        policy = VlaPolicy.load(tmp_path / "base")
        assert policy.device.type == ELSEWHERE
        document = edit.measure(
            policy, edit.Settings(1, 8, 1, parameters, texts, stages=STAGES), lambda done, total: None
        )
    found = {f["name"]: f["value"] for f in document["figures"] if "gradient_difference" in f["name"]}
    assert len(found) == len(STAGES)
    assert all(value < 1e-4 for value in found.values())


def test_the_library_s_path_and_ours_give_the_same_tokens_there(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = inference.Settings("openvla_7b", "small", repeats=1, rounded=False)
    with elsewhere(monkeypatch):
        document = inference.measure(settings, lambda done, total: None)
    values = {figure["name"]: figure["value"] for figure in document["figures"]}
    for name in ("merged", "factors", "narrow"):
        assert values[f"equal_tokens_share_{name}"] == 1.0
