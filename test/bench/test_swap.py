"""The swap benchmark measures what it says, on a random tiny."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from vlaforget_ros import figures
from vlaforget_ros.bench import swap
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.policy.tiny import new_tiny

NAMES = [
    "adapter_mb",
    "flip_us",
    "peft_set_adapter_ms",
    "swap_vs_peft_ratio",
    "inference_ms_base",
    "inference_ms_adapter",
    "inference_idle_ratio",
    "inference_adapter_ratio",
    "inference_peft_ratio",
    "staged_ms",
    "swap_ms",
    "swap_ms_p99",
    "rollback_ms",
    "mixed_actions",
]


def test_a_short_run_gives_every_figure_and_leaves_the_base_model(tmp_path: Path) -> None:
    model, tokenizer = new_tiny(["open the faucet"], 0)
    policy = VlaPolicy(model.eval(), tokenizer, "0" * 64)
    before = {name: value.clone() for name, value in model.state_dict().items()}

    document = swap.measure(policy, "open the faucet", repeats=8)
    figures.write(tmp_path / "swap.json", document)

    found = {
        figure["name"]: figure["value"]
        for figure in json.loads((tmp_path / "swap.json").read_text())["figures"]
    }
    assert list(found) == NAMES
    assert found["mixed_actions"] == 0
    assert found["swap_vs_peft_ratio"] < 0.2
    assert 0.2 < found["adapter_mb"] < 2
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
