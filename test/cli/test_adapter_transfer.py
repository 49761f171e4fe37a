"""``vlaforget adapters export | import`` as a person meets them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from vlaforget_ros.adapters import AdapterStore, LoraWeights
from vlaforget_ros.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
runner = CliRunner()


@pytest.fixture
def digest(tmp_path: Path) -> str:
    generator = torch.Generator().manual_seed(0)
    factors = torch.randn(64, 9000, generator=generator), torch.randn(9000, 64, generator=generator)
    weights = LoraWeights.from_tensors({"projector.fc1": factors}, alpha=1.0, base_digest="ab" * 32)
    return AdapterStore(tmp_path / "lab").add_weights(weights, {"name": "fix", "method": "npo"}).digest


def test_an_adapter_goes_out_as_one_file_and_comes_in_once(tmp_path: Path, digest: str) -> None:
    lab, robot = (["--store", str(tmp_path / name)] for name in ("lab", "robot"))
    file = tmp_path / "out" / f"fix-{digest[:12]}.tar"
    sent = json.loads(
        runner.invoke(app, ["adapters", "export", "fix", f"{tmp_path}/out/", *lab, "--json"]).stdout
    )
    assert sent == {
        "digest": digest, "name": "fix", "destination": str(file), "bytes": file.stat().st_size, "signed": False,
    }  # fmt: skip

    taken = runner.invoke(app, ["adapters", "import", str(file), *robot, "--json"])
    again = runner.invoke(app, ["adapters", "import", str(file), *robot])

    assert json.loads(taken.stdout)["new"] is True
    assert "imported before" in again.stdout
    assert AdapterStore(tmp_path / "robot").load(digest).digest == digest


def test_a_long_transfer_shows_how_far_it_is(tmp_path: Path, digest: str) -> None:
    shown = runner.invoke(
        app, ["adapters", "export", "fix", "memory://fix.tar", "--store", str(tmp_path / "lab")]
    )
    assert shown.exit_code == 0
    assert shown.stderr.count(" kB") >= 4


def test_a_refused_bundle_is_one_line_and_status_1(tmp_path: Path) -> None:
    (tmp_path / "evil.tar").write_bytes(b"PK\x03\x04" + bytes(4000))
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    line = [sys.executable, "-m", "vlaforget_ros.cli.app", "adapters", "import", str(tmp_path / "evil.tar")]
    run = subprocess.run(
        [*line, "--store", str(tmp_path / "robot")],
        capture_output=True, text=True, timeout=120, env=environment, check=False,
    )  # fmt: skip
    assert run.returncode == 1
    assert run.stderr.startswith("error [111 ADAPTER_BAD_BUNDLE] bundle: a zip archive")
    assert len(run.stderr.splitlines()) == 1
    assert not (tmp_path / "robot").exists()
