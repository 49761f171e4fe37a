"""All attacks in one go, on paper; the document, the command, and what it leaves beside the manifest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from vlaforget_ros.adapters import AdapterStore
from vlaforget_ros.adapters.lora import LoraWeights
from vlaforget_ros.attacks.run import AttackSettings, check_kinds, run
from vlaforget_ros.cli.app import app
from vlaforget_ros.errors import AdapterError, ErrorCode, UnlearningError
from vlaforget_ros.unlearning.request import Request

OFFLINE = ["quantisation", "relearning", "variants", "membership"]


@pytest.fixture
def request_file(asked: Request, tmp_path: Path) -> Path:
    path = tmp_path / "request.yaml"
    path.write_text(yaml.safe_dump(asked.model_dump(mode="json")))
    return path


def command(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["attack", *map(str, arguments)])


def test_every_offline_attack_is_in_the_document(
    asked: Request, edited: LoraWeights, reference_dir: Path, tmp_path: Path
) -> None:
    heard: list[str] = []
    settings = AttackSettings(
        asked, edited, tmp_path / "out", OFFLINE, reference=reference_dir, points=(0, 2), seed=4
    )
    document = run(settings, lambda what, done, total: heard.append(what))
    assert list(document["attacks"]) == OFFLINE
    names = [figure["name"] for figure in document["figures"]]
    assert len(names) == len(set(names))
    assert {"qrr_int8", "qrr_nf4", "qrr_int4", "back_edited_2", "back_reference_2"} <= set(names)
    assert "auc_trajectory_edited_calibrated" in names
    assert [gate["name"] for gate in document["gates"]] == ["qrr_int8_max", "qrr_4bit_max"]
    assert "name a scenario" in document["attacks"]["variants"]["remarks"][0]
    assert document["request_sha256"] == asked.digest
    assert document["after"]["fc"] > document["before"]["fc"]
    assert {"quantisation", "relearn edited", "relearn reference", "membership"} == set(heard)
    assert json.loads(json.dumps(document, allow_nan=False)) == document


def test_kinds_are_checked_and_put_in_order() -> None:
    assert check_kinds(["membership", "quantisation", "membership"]) == ["quantisation", "membership"]
    for wrong in (["quantization"], [""], []):
        with pytest.raises(UnlearningError) as caught:
            check_kinds(wrong)
        assert caught.value.code == ErrorCode.UNLEARNING_BAD_REQUEST
    with pytest.raises(UnlearningError, match="did you mean quantisation"):
        check_kinds(["quantization"])


def test_the_command_attaches_evidence_and_a_failed_gate_blocks_promotion(
    edited_dir: Path, request_file: Path, tmp_path: Path
) -> None:
    provenance = json.loads((edited_dir.parent / "provenance.json").read_text())
    store = AdapterStore(tmp_path / "store")
    digest = store.add(edited_dir, {**provenance, "gates_passed": True}).digest
    line = ["sticker", "--request", request_file, "--store", store.root, "--kinds", "quantisation"]
    line += ["--out", tmp_path / "out", "--json", tmp_path / "attacks.json"]

    result = command(*line)

    assert result.exit_code == 0, result.output
    written = json.loads((tmp_path / "attacks.json").read_text())
    evidence = store.manifest(digest).evidence["attacks"]
    assert evidence == written
    assert evidence["adapter"] == digest
    assert "qrr_4bit_max" in result.output
    verdicts = {gate["name"]: gate["verdict"] for gate in evidence["gates"]}
    assert set(verdicts.values()) <= {"passed", "failed"}

    failing = [{**gate, "value": 0.3, "verdict": "failed"} for gate in evidence["gates"][1:]]
    found = {**evidence["attacks"]["quantisation"], "gates": failing}
    store.attach(digest, "attacks", {**evidence, "attacks": {"quantisation": found}, "gates": failing})
    line[line.index("quantisation")] = "membership"
    assert command(*line).exit_code == 0
    evidence = store.manifest(digest).evidence["attacks"]
    assert set(evidence["attacks"]) == {"quantisation", "membership"}
    assert {"qrr_int8", "auc_step_edited"} < {figure["name"] for figure in evidence["figures"]}
    with pytest.raises(AdapterError, match="qrr_4bit_max") as caught:
        store.alias("stable", digest)
    assert caught.value.code == ErrorCode.ADAPTER_NOT_PROMOTABLE


def test_a_folder_is_attacked_without_a_store_and_bad_arguments_are_named(
    edited_dir: Path, request_file: Path, tmp_path: Path
) -> None:
    line = [edited_dir, "--request", request_file, "--store", tmp_path / "none", "--out", tmp_path / "out"]
    assert command(*line, "--kinds", "membership").exit_code == 0
    assert not (tmp_path / "none").exists()
    assert command(*line, "--points", "0,ten").exit_code == 2
    assert command(*line, "--points", "10,0").exit_code == 2
    assert isinstance(command(*line, "--scenario", "triger").exception, Exception)
    base = command("base", "--request", request_file, "--store", tmp_path / "none")
    assert "[100 " in str(base.exception)
