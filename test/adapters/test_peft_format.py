"""The two files of a PEFT adapter, good and bad."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from vlaforget_ros.adapters.lora import LoraModule, LoraWeights
from vlaforget_ros.adapters.peft_format import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    decode,
    encode,
    read_peft,
    write_peft,
)
from vlaforget_ros.errors import AdapterError, ErrorCode

MakeWeights = Callable[..., LoraWeights]


def mixed(make_weights: MakeWeights) -> LoraWeights:
    """An adapter whose layers differ in rank and alpha."""
    names = list(make_weights().modules)
    return LoraWeights(
        {
            name: make_weights(i, rank=i + 2, alpha=3.0 * (i + 1)).modules[name]
            for i, name in enumerate(names)
        },
        make_weights().base_digest,
    )


def change_config(directory: Path, **changes: Any) -> None:
    path = directory / CONFIG_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_what_is_written_is_read_back_exactly(tmp_path: Path, make_weights: MakeWeights) -> None:
    weights = mixed(make_weights)

    write_peft(weights, tmp_path)
    found = read_peft(tmp_path)

    assert found.base_digest == weights.base_digest
    assert list(found.modules) == list(weights.modules)
    for name, module in weights.modules.items():
        assert found.modules[name].alpha == module.alpha
        assert torch.equal(found.modules[name].a, module.a)
        assert torch.equal(found.modules[name].b, module.b)


def test_the_same_weights_give_the_same_bytes(make_weights: MakeWeights) -> None:
    assert encode(make_weights(3)) == encode(make_weights(3))


def test_keys_and_base_are_those_of_peft(tmp_path: Path, make_weights: MakeWeights, base_digest: str) -> None:
    write_peft(make_weights(rank=3), tmp_path)

    tensors = load_file(tmp_path / WEIGHTS_FILE)
    assert tensors["base_model.model.projector.fc1.lora_A.weight"].shape == (3, 8)
    assert tensors["base_model.model.projector.fc1.lora_B.weight"].shape == (24, 3)
    config = json.loads((tmp_path / CONFIG_FILE).read_text())
    assert config["base_model_name_or_path"] == f"sha256:{base_digest}"


@pytest.mark.parametrize(
    "changes",
    [
        {"peft_type": "IA3"},
        {"use_dora": True},
        {"use_rslora": True},
        {"bias": "all"},
        {"modules_to_save": ["lm_head"]},
        {"init_lora_weights": "pissa"},
        {"rank_pattern": {".*fc1": 4}},
        {"alpha_pattern": {r"layers\.\d\.mlp": 4}},
        {"lora_alpha": "8"},
        {"r": 7},
        {"r": 0},
    ],
)
def test_what_is_not_plain_lora_is_refused(tmp_path: Path, make_weights: MakeWeights, changes: dict) -> None:
    write_peft(make_weights(), tmp_path)
    change_config(tmp_path, **changes)

    with pytest.raises(AdapterError) as caught:
        read_peft(tmp_path)

    assert caught.value.code == ErrorCode.ADAPTER_BAD_SHAPE


def test_a_missing_factor_and_a_foreign_tensor_are_named(tmp_path: Path, make_weights: MakeWeights) -> None:
    write_peft(make_weights(), tmp_path)
    tensors = load_file(tmp_path / WEIGHTS_FILE)
    lost = "base_model.model.projector.fc1.lora_B.weight"
    save_file({key: value for key, value in tensors.items() if key != lost}, tmp_path / WEIGHTS_FILE)
    with pytest.raises(AdapterError, match=r"projector\.fc1\.lora_B"):
        read_peft(tmp_path)

    save_file({**tensors, "lm_head.weight": torch.ones(2)}, tmp_path / WEIGHTS_FILE)
    with pytest.raises(AdapterError, match=r"lm_head\.weight"):
        read_peft(tmp_path)


def test_nan_and_rank_have_codes_of_their_own(tmp_path: Path, make_weights: MakeWeights) -> None:
    write_peft(make_weights(rank=9), tmp_path)
    with pytest.raises(AdapterError) as caught:
        read_peft(tmp_path, rank_limit=8)
    assert caught.value.code == ErrorCode.ADAPTER_OVER_RANK_LIMIT

    tensors = load_file(tmp_path / WEIGHTS_FILE)
    tensors["base_model.model.projector.fc1.lora_A.weight"][0, 0] = float("nan")
    save_file(tensors, tmp_path / WEIGHTS_FILE)
    with pytest.raises(AdapterError) as caught:
        read_peft(tmp_path)
    assert caught.value.code == ErrorCode.ADAPTER_NON_FINITE


def test_weights_with_nan_are_never_written(tmp_path: Path) -> None:
    bad = LoraWeights({"x": LoraModule(torch.full((1, 2), float("nan")), torch.ones(2, 1), 1.0)})

    with pytest.raises(AdapterError) as caught:
        write_peft(bad, tmp_path)

    assert caught.value.code == ErrorCode.ADAPTER_NON_FINITE
    assert list(tmp_path.iterdir()) == []


def test_a_missing_directory_and_a_link_are_refused(tmp_path: Path, make_weights: MakeWeights) -> None:
    with pytest.raises(AdapterError) as caught:
        read_peft(tmp_path / "nowhere")
    assert caught.value.code == ErrorCode.ADAPTER_UNKNOWN

    write_peft(make_weights(), tmp_path / "real")
    (tmp_path / "linked").mkdir()
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        (tmp_path / "linked" / name).symlink_to(tmp_path / "real" / name)
    with pytest.raises(AdapterError) as caught:
        read_peft(tmp_path / "linked")
    assert caught.value.code == ErrorCode.ADAPTER_BAD_SHAPE


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_are_refused_or_finite(make_weights: MakeWeights, data: st.DataObject) -> None:
    """Cut or changed bytes never end in anything but a coded error or a checked adapter."""
    files = {name: bytearray(content) for name, content in encode(make_weights()).items()}
    target = files[data.draw(st.sampled_from(sorted(files)))]
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, min(len(target) - 1, 1200)))
        target[position] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del target[data.draw(st.integers(1, len(target) - 1)) :]

    # Any other exception fails the test.
    with contextlib.suppress(AdapterError):
        decode({name: bytes(content) for name, content in files.items()}).check()
