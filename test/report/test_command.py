"""`vlaforget unlearn` ends with a report; `vlaforget report` makes it again with what was measured since."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from vlaforget_ros import figures
from vlaforget_ros.adapters import AdapterStore
from vlaforget_ros.cli.app import app
from vlaforget_ros.errors import AdapterError, UnlearningError
from vlaforget_ros.figures import Figure
from vlaforget_ros.report.material import read_document, read_material

runner = CliRunner()


def test_an_edit_ends_with_a_report_that_rollouts_and_other_edits_are_added_to(
    request_text: str, tmp_path: Path
) -> None:
    request, out, store = tmp_path / "request.yaml", tmp_path / "out", tmp_path / "store"
    request.write_text(request_text + "reason: a sticker pulls the arm\n")
    line = ["unlearn", str(request), "--out", str(out), "--store", str(store)]
    result = runner.invoke(app, line)
    assert result.exit_code == 0, result.output
    (manifest,) = AdapterStore(store).manifests()
    assert f"report {out / 'report.html'}" in result.output
    first = json.loads((out / "report.json").read_text())
    assert first["verdict"]["sentence"] in result.output
    assert first["adapter"] == manifest.digest, "the digest that the store gives it"
    assert first["reason"] == manifest.core.reason == "a sticker pulls the arm"
    assert first["datasets"] == manifest.core.datasets
    intervals = {gate["name"]: gate["low"] is not None for gate in first["gates"]}
    assert intervals["fc_min"]
    assert intervals["rc_min"]
    assert "<h1>a sticker pulls the arm</h1>" in (out / "report.html").read_text()

    document = figures.document(
        "rollouts", [Figure("tsr_loss", 9.0, "percent", 20)], [0], adapter=manifest.digest
    )
    document["gates"] = [{"name": "tsr_loss_max", "verdict": "failed", "value": 9.0, "limit": 5.0, "n": 20}]
    evidence = tmp_path / "evidence.json"
    evidence.write_text(json.dumps({"closed_loop": document}))
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for side in ("before", "after"):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(pictures / f"faucet-{side}.png")
    more = ["--closed-loop", str(evidence), "--against", str(out), "--pictures", str(pictures)]
    again = runner.invoke(app, ["report", str(out), *more, "--out", str(tmp_path / "second.html")])
    assert again.exit_code == 0, again.output
    assert "may not be promoted" in again.output
    second = json.loads((tmp_path / "second.json").read_text())
    assert "tsr_loss_max" in second["verdict"]["failed"]
    assert len(second["comparison"]) == 2
    assert (tmp_path / "second.html").read_text().count("data:image/jpeg;base64") == 2

    AdapterStore(store).attach(manifest.digest, "closed_loop", document)
    third = runner.invoke(app, ["report", str(out), "--store", str(store)])
    assert third.exit_code == 0, third.output
    attached = json.loads((out / "report.json").read_text())
    assert attached["closed_loop"]["gates"] == second["closed_loop"]["gates"], "without naming a file"

    document["adapter"] = "0" * 64
    evidence.write_text(json.dumps(document))
    with pytest.raises(UnlearningError, match="measured on another adapter"):
        read_material(out, closed_loop=evidence)
    (out / "adapter" / "adapter_model.safetensors").unlink()
    with pytest.raises(AdapterError):
        read_material(out)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"figures": []}', '{"figures": [{"name": "x"}]}'])
def test_what_is_no_document_of_figures_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(UnlearningError, match="no document of figures"):
        read_document(tmp_path / "x.json", "attacks", "")
