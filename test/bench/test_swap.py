"""The swap benchmark measures what it says, on a random tiny."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from vlaforget_ros import figures
from vlaforget_ros.adapters import AdapterStore
from vlaforget_ros.bench import swap, swap_load
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
    "inferences",
    "swaps",
    "mixed_outputs",
    "missed_ticks",
    "missed_ticks_without_swaps",
    "answer_ms_p99",
    "answer_ms_p99_without_swaps",
    "swap_cycles",
    "memory_growth_percent",
]
LARGE = [
    "parameters_large",
    "adapter_mb_large",
    "flip_ms_p50",
    "flip_ms_p99",
    "staged_ms_large",
    *(
        f"{name}_{what}"
        for name in ("set_adapter", "load_adapter", "hotswap_adapter")
        for what in ("ms", "ratio")
    ),
]


def test_a_short_run_gives_every_figure_and_leaves_the_base_model(tmp_path: Path) -> None:
    model, tokenizer = new_tiny(["open the faucet"], 0)
    policy = VlaPolicy(model.eval(), tokenizer, "0" * 64)
    before = {name: value.clone() for name, value in model.state_dict().items()}

    load = swap.Load(inferences=100, cycles=50, changes=0)
    document = swap.measure(policy, "open the faucet", repeats=8, load=load)
    figures.write(tmp_path / "swap.json", document)

    found = {
        figure["name"]: figure["value"]
        for figure in json.loads((tmp_path / "swap.json").read_text())["figures"]
    }
    assert list(found) == NAMES
    assert found["mixed_actions"] == found["mixed_outputs"] == 0
    assert found["swaps"] > 1
    assert found["swap_cycles"] == 50
    assert found["swap_vs_peft_ratio"] < 0.2
    assert 0.2 < found["adapter_mb"] < 2
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_changes_of_a_large_model_stand_beside_peft_s(tmp_path: Path) -> None:
    # As the benchmark does it, on the small policy.
    model, tokenizer = new_tiny(["open the faucet"], 0)
    policy = VlaPolicy(model.eval().requires_grad_(False), tokenizer, "0" * 64)
    store = AdapterStore(tmp_path)
    digests = [
        store.add_weights(
            swap.random_adapter(policy, seed), {"name": f"edit-{seed}", "method": "random"}
        ).digest
        for seed in range(2)
    ]
    figures_found = swap_load.beside_peft(policy, store, digests, 20, lambda what, done, total: None)
    found = {figure.name: figure.value for figure in figures_found}
    assert list(found) == LARGE
    assert found["set_adapter_ratio"] > 5
    assert found["load_adapter_ratio"] > found["set_adapter_ratio"]
    assert found["hotswap_adapter_ratio"] > 5
    assert not any(module._forward_hooks for module in model.modules())


def test_the_large_model_and_its_adapter_have_the_sizes_that_are_asked_for() -> None:
    with torch.device("meta"):
        policy = swap_load.large_policy()
    numbers = sum(parameter.numel() for parameter in policy.model.parameters())
    assert 190e6 < numbers < 230e6
    editable = {name for layers in policy.components().values() for layer in layers for name in layer.modules}
    layers = [policy.model.get_submodule(name) for name in editable]
    megabytes = (
        sum(4 * swap_load.LARGE_RANK * (layer.in_features + layer.out_features) for layer in layers) / 1e6
    )
    assert 27 < megabytes < 32
