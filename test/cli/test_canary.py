"""`vlaforget canary plan` and `vlaforget bench canary` as a person calls them."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vlaforget_ros.cli.app import app
from vlaforget_ros.errors import CanaryError

runner = CliRunner()


def test_a_plan_is_printed_and_written(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    line = ["canary", "plan", "--svr", "0.02", "--detect", "0.2", "--canaries", "100", "--json", str(path)]
    result = runner.invoke(app, line)
    assert result.exit_code == 0, result.output
    assert "cannot be told" in result.output
    plan = json.loads(path.read_text())
    assert plan["protocol"]["svr_bad"] == 0.2
    known, learnt = plan["tables"].values()
    assert len(known) == len(learnt) == 8
    assert plan["limits"]["svr_found"] <= 0.2


def test_a_protocol_with_a_reference_needs_no_simulation(tmp_path: Path) -> None:
    file = tmp_path / "protocol.yaml"
    file.write_text("tsr_reference: 0.8\n")
    path = tmp_path / "plan.json"
    result = runner.invoke(app, ["canary", "plan", "--protocol", str(file), "--json", str(path)])
    assert result.exit_code == 0, result.output
    assert list(json.loads(path.read_text())["tables"]) == ["known success rate 0.8 of stable"]


def test_contradictions_are_refused() -> None:
    result = runner.invoke(app, ["canary", "plan", "--svr", "0.3"])
    assert isinstance(result.exception, CanaryError)
    with pytest.raises(CanaryError, match="svr_bad"):
        raise result.exception


def test_the_benchmark_is_a_command(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    result = runner.invoke(app, ["bench", "canary", "--canaries", "100", "--json", str(path)])
    assert result.exit_code == 0, result.output
    assert "naive_false_abort_rate" in result.output
    assert json.loads(path.read_text())["benchmark"] == "canary"
