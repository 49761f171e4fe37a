"""The serving benchmark: a random checkpoint in the released layout, all paths on the same weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from vlaforget_ros.bench import random_release
from vlaforget_ros.bench.inference import Settings, load, measure
from vlaforget_ros.policy.inspection import inspect
from vlaforget_ros.policy.openvla_7b import openvla_small_config
from vlaforget_ros.policy.policy import VlaPolicy


def test_all_paths_give_the_same_tokens_and_their_rates_are_reported() -> None:
    heard: list[int] = []
    document = measure(Settings("openvla_7b", "small", repeats=3), lambda done, total: heard.append(done))
    values = {figure["name"]: figure["value"] for figure in document["figures"]}
    for name in ("merged", "factors", "narrow"):
        assert values[f"equal_tokens_share_{name}"] == 1.0
    # The vocabulary is the large model's: most of a token at this size, little of one at that.
    assert values["head_share"] > 0.5 > 0.05 > values["head_share_released"]
    assert values["actions_per_second_ratio_narrow"] > 0
    assert values["actions_per_second_ratio"] == pytest.approx(
        values["actions_per_second"] / values["actions_per_second_plain"], rel=1e-6
    )
    assert values["load_seconds"] > 0
    # On the CPU the weights themselves are host memory; beside them there is at most the file they come from.
    assert values["weights_mb"] * 0.9 < values["load_peak_host_mb"]
    assert values["load_peak_host_mb"] < values["weights_mb"] + values["largest_shard_mb"] + 200
    assert heard[-1] == 3
    # Tables of words are most of a small policy: only its blocks shrink, to a quarter and to an eighth.
    assert values["weights_ratio_nf4"] < values["weights_ratio_int8"] < 0.9
    assert values["actions_per_second_nf4"] > 0
    assert 0 <= values["equal_tokens_share_int8"] <= 1


def test_pi0_fast_decodes_the_same_tokens_as_the_library_s_gemma() -> None:
    document = measure(Settings("pi0_fast", "small", repeats=1), lambda done, total: None)
    values = {figure["name"]: figure for figure in document["figures"]}
    assert (
        values["equal_tokens_share_merged"]["value"] == values["equal_tokens_share_factors"]["value"] == 1.0
    )
    assert values["equal_tokens_share_loop"]["value"] == 1.0
    assert values["equal_tokens_share_merged"]["n"] > 5
    assert values["head_share"]["value"] == pytest.approx(values["head_share_released"]["value"], rel=1e-3)
    assert values["actions_per_second_ratio"]["value"] > 0


def test_openvla_oft_decides_the_same_chunk_as_the_library_s_pass() -> None:
    settings = Settings("openvla_oft", "small", repeats=1, rounded=False)
    document = measure(settings, lambda done, total: None)
    values = {figure["name"]: figure for figure in document["figures"]}
    for name in ("merged", "factors", "narrow"):
        # Chunks of eight actions of seven numbers, in bins of 1/128: sums in another order rarely cross an edge.
        assert values[f"equal_tokens_share_{name}"]["n"] == 56
        assert values[f"equal_tokens_share_{name}"]["value"] > 0.9
    assert values["actions_per_second_ratio"]["value"] > 0
    assert values["actions_per_second_ratio_narrow"]["value"] > 0


@pytest.mark.timeout(600)
def test_compiled_paths_are_timed_and_what_they_would_compile_anew_is_counted() -> None:
    document = measure(Settings("openvla_7b", "small", repeats=1, compiled=True), lambda done, total: None)
    values = {figure["name"]: figure["value"] for figure in document["figures"]}
    for name in ("compiled", "compiled_factors"):
        assert values[f"actions_per_second_ratio_{name}"] > 0
        assert values[f"compile_seconds_{name}"] > 0
        assert values[f"recompilations_{name}"] == 0
        assert values[f"equal_tokens_share_{name}"] == 1.0


def test_the_random_checkpoint_is_one_in_the_released_layout(tmp_path: Path) -> None:
    config = openvla_small_config(random_release.STATISTICS)
    largest = random_release.write(tmp_path, config, ("open the door",), shard_bytes=40_000_000)
    assert len(list(tmp_path.glob("*.safetensors"))) == 3
    assert largest < 41_000_000
    assert inspect(tmp_path)["problems"] == []
    policy = VlaPolicy.load(tmp_path)
    assert policy.config.towers == config.towers
    assert policy.config.language == config.language
    again = VlaPolicy.load(tmp_path)
    for own, other in zip(policy.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(own, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_random_checkpoint_of_openvla_oft_is_one_of_libero(dtype: torch.dtype) -> None:
    with random_release.released(
        "small", "cpu", ("open the door",), 3, None, "openvla_oft", dtype
    ) as release:
        found = inspect(release.directory)
        policy = VlaPolicy.load(release.directory)
    assert found["problems"] == []
    assert (found["chunk"], found["cameras"], found["state"]) == (8, 2, 8)
    assert {parameter.dtype for parameter in policy.model.parameters()} == {dtype}
    images = np.zeros((2, 112, 112, 3), dtype=np.uint8)
    assert policy.act(images, "open the door", np.zeros(8)).action.shape == (56,)


def test_loading_is_measured_in_a_process_of_its_own(tmp_path: Path) -> None:
    random_release.write(tmp_path, openvla_small_config(random_release.STATISTICS), ("open the door",))
    found = load(tmp_path, "cpu")
    assert found.seconds > 0
    assert found.host_mb > 50


def test_weights_of_half_precision_and_no_rounded_ones() -> None:
    settings = Settings("openvla_7b", "small", repeats=1, rounded=False, dtype=torch.bfloat16, blocks=1)
    document = measure(settings, lambda done, total: None)
    values = {figure["name"]: figure["value"] for figure in document["figures"]}
    assert (document["dtype"], document["adapter_layers"]) == ("bfloat16", 7)
    assert values["actions_per_second_ratio"] > 0
    assert not [name for name in values if "int8" in name or "nf4" in name]
