"""Loading file by file: beside what ends up on the device, the host holds one file of the weights at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlaforget_ros.bench import random_release
from vlaforget_ros.bench.inference import load
from vlaforget_ros.policy.openvla_7b import openvla_small_config
from vlaforget_ros.policy.options import set_options

SHARD = 40_000_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half a gigabyte in single precision: large enough that other memory does not matter."""
    small = openvla_small_config(random_release.STATISTICS)
    deep = {**small.language, "num_hidden_layers": 24, "intermediate_size": 4096}
    directory = tmp_path_factory.mktemp("streamed") / "base"
    config = small.model_copy(update={"language": deep})
    largest = random_release.write(directory, config, ("push the button",), shard_bytes=SHARD)
    assert largest < 1.1 * SHARD
    return directory


def test_converted_weights_need_one_file_beside_them(folder: Path) -> None:
    stored = sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 1e6
    assert stored > 10 * SHARD / 1e6
    set_options(folder, dtype="bfloat16")
    converted = stored / 2
    # A loader that held all files until the end would need three times the converted weights.
    assert converted * 0.9 < load(folder, "cpu").host_mb < converted + SHARD / 1e6 + 80
