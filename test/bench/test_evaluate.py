"""`vlaforget evaluate` on the embedded policy: real rollouts, evidence in the store, pictures for the report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from vlaforget_ros.adapters import AdapterStore, LoraWeights
from vlaforget_ros.cli.app import app
from vlaforget_ros.errors import AdapterError
from vlaforget_ros.paths import models_directory
from vlaforget_ros.policy import checkpoint
from vlaforget_ros.report.pictures import read_strips

LAYER = "language_model.model.layers.1.self_attn.o_proj"


def test_an_adapter_that_destroys_the_policy_fails_in_closed_loop_and_cannot_become_stable(
    tmp_path: Path,
) -> None:
    base = checkpoint.digest(models_directory() / "tiny")
    noise = torch.Generator().manual_seed(0)
    factors = tuple(torch.randn(*shape, generator=noise) for shape in ((2, 128), (128, 2)))
    store = AdapterStore(tmp_path / "store")
    weights = LoraWeights.from_tensors({LAYER: factors}, alpha=8.0, base_digest=base)
    provenance = {"name": "noise", "method": "test", "base_digest": base, "gates_passed": True}
    digest = store.add_weights(weights, provenance).digest

    line = ["evaluate", "noise", "--scenario", "prior", "--store", str(store.root)]
    line += ["--forget", "2", "--retain", "1", "--pictures", str(tmp_path / "pictures")]
    result = CliRunner().invoke(app, [*line, "--json", str(tmp_path / "figures.json")])
    assert result.exit_code == 0, result.output
    values = {f["name"]: f["value"] for f in json.loads((tmp_path / "figures.json").read_text())["figures"]}
    assert values["tsr_before"] > values["tsr_after"]
    assert values["tsr_loss"] == pytest.approx(values["tsr_before"] - values["tsr_after"])
    attached = store.manifest(digest).evidence["closed_loop"]
    assert "tsr_loss_max" in {gate["name"] for gate in attached["gates"] if gate["verdict"] == "failed"}
    with pytest.raises(AdapterError, match="failed gate"):
        store.alias("stable", digest)
    strips = read_strips(tmp_path / "pictures")
    # Forget situations of the scenario, and a retained task.
    assert len(strips) == 2
    assert all((strip.before != strip.after).any() for strip in strips)
