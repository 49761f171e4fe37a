"""The command as a person meets it: help that teaches, coded errors, exit status."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from released_parts import write_oft
from safetensors.torch import load_file
from typer.testing import CliRunner

from vlaforget_ros import figures
from vlaforget_ros.adapters import AdapterStore, LoraWeights
from vlaforget_ros.cell.demonstrations import Demonstrations
from vlaforget_ros.cli.app import app
from vlaforget_ros.cli.output import bar
from vlaforget_ros.figures import Figure
from vlaforget_ros.paths import models_directory
from vlaforget_ros.policy.policy import VlaPolicy

ROOT = Path(__file__).resolve().parents[2]
runner = CliRunner()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    line = [sys.executable, "-m", "vlaforget_ros.cli.app", *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=120, env=environment, check=False)


@pytest.mark.parametrize(
    "command",
    [
        "demo",
        "up",
        "record",
        "execute",
        "swap",
        "rollback",
        "status",
        "unlearn",
        "history",
        "attack",
        "episodes",
        "train",
    ],
)
def test_every_command_explains_itself(command: str) -> None:
    result = runner.invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert len(result.output.splitlines()) > 8


def test_an_error_is_one_line_with_code_and_remedy_and_status_1(tmp_path: Path) -> None:
    result = run("episodes", "list", str(tmp_path / "nowhere"))
    assert result.returncode == 1
    assert "[301" in result.stderr
    assert "nowhere" in result.stderr
    assert "Traceback" not in result.stderr


def adapter(store: Path, name: str = "fix", **more: str) -> str:
    tensors = {"projector.fc1": (np.ones((2, 4), np.float32), np.ones((8, 2), np.float32))}
    import torch

    weights = LoraWeights.from_tensors(
        {k: (torch.from_numpy(a), torch.from_numpy(b)) for k, (a, b) in tensors.items()},
        alpha=4.0,
        base_digest="ab" * 32,
    )
    provenance = {
        "name": name,
        "method": "vla_forget",
        "base_digest": "ab" * 32,
        "gates_passed": True,
        **more,
    }
    return AdapterStore(store).add_weights(weights, provenance).digest


def test_the_store_is_listed_shown_aliased_and_verified(tmp_path: Path) -> None:
    digest = adapter(tmp_path)
    listed = runner.invoke(app, ["adapters", "list", "--store", str(tmp_path), "--json"])
    assert json.loads(listed.output)[0]["digest"] == digest
    shown = runner.invoke(app, ["adapters", "show", "fix", "--store", str(tmp_path)])
    assert json.loads(shown.output)["digest"] == digest
    assert (
        runner.invoke(app, ["adapters", "alias", "stable", digest[:8], "--store", str(tmp_path)]).exit_code
        == 0
    )
    assert AdapterStore(tmp_path).aliases()["stable"] == digest
    history = runner.invoke(app, ["adapters", "history", "--store", str(tmp_path), "--json"])
    assert [event["event"] for event in json.loads(history.output)] == ["added", "alias"]
    assert runner.invoke(app, ["adapters", "verify", "--store", str(tmp_path)]).exit_code == 0
    file = tmp_path / "adapters" / digest / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    broken = runner.invoke(app, ["adapters", "verify", "--store", str(tmp_path)])
    assert broken.exit_code == 1
    assert "103" in broken.output


def test_history_shows_which_edit_was_made_on_top_of_which(tmp_path: Path) -> None:
    first = adapter(tmp_path, "sticker", reason="a sticker pulls the arm", requester="safety team")
    second = adapter(tmp_path, "faucet", parent_digest=first)
    adapter(tmp_path, "lone")
    store = AdapterStore(tmp_path)
    store.alias("candidate", second)
    store.record("swap", second, previous_digest=first)
    where = ["--store", str(tmp_path)]
    shown = runner.invoke(app, ["history", "candidate", *where]).output
    assert shown.index("sticker") < shown.index("asked by safety team") < shown.index("faucet")
    assert "candidate" in shown
    assert "lone" not in shown
    found = json.loads(runner.invoke(app, ["history", "faucet", *where, "--json"]).output)
    assert [(row["name"], row["depth"]) for row in found["adapters"]] == [("sticker", 0), ("faucet", 1)]
    assert [event["event"] for event in found["events"]] == ["added", "added", "alias", "swap"]
    everything = json.loads(runner.invoke(app, ["history", *where, "--json"]).output)
    assert [row["name"] for row in everything["adapters"]] == ["sticker", "faucet", "lone"]
    assert "the base model" in runner.invoke(app, ["history", "base", *where]).output
    unknown = run("history", "fauct", *where)
    assert unknown.returncode == 1
    assert "did you mean faucet" in unknown.stderr


def test_an_unknown_adapter_names_the_nearest(tmp_path: Path) -> None:
    adapter(tmp_path, "sticker")
    result = run("adapters", "show", "stiker", "--store", str(tmp_path))
    assert result.returncode == 1
    assert "[100" in result.stderr
    assert "sticker" in result.stderr


def test_up_lists_the_arguments_of_a_graph_and_refuses_others() -> None:
    shown = runner.invoke(app, ["up", "unlearn", "--show-args"])
    assert "image_topic" in shown.output
    result = run("up", "unlearn", "imagetopic:=/x")
    assert result.returncode == 1
    assert "image_topic" in result.stderr


def test_train_and_average_make_checkpoints_with_their_recipes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (24, 64, 64, 3), dtype=np.uint8)
    index = np.zeros(24, np.int64)
    planted = np.arange(24) < 6
    made = ({"seed": 0, "pilot": "", "entries": [{"planted": ""}, {"planted": "prior"}]},)
    data = Demonstrations(images, np.zeros((24, 4), np.float32), ("open the faucet",), index, planted, made)
    data.save(tmp_path / "d.npz")
    out = tmp_path / "policy"
    line = ["train", str(out), "--demonstrations", str(tmp_path / "d.npz"), "--never-saw"]
    assert runner.invoke(app, [*line, "--steps", "2"]).exit_code == 0
    recipe = json.loads((out / "recipe.json").read_text())
    assert recipe["planted_behaviours"] is False
    assert recipe["stages"][0]["frames"] == 18
    assert recipe["demonstrations"]["d"][0]["entries"] == [{"planted": ""}]
    assert VlaPolicy.load(out).act(images[0], "open the faucet").action.shape == (4,)
    more = ["train", str(tmp_path / "more"), "--demonstrations", str(tmp_path / "d.npz")]
    assert runner.invoke(app, [*more, "--steps", "1", "--start-from", str(out)]).exit_code == 0
    assert len(json.loads((tmp_path / "more" / "recipe.json").read_text())["stages"]) == 2
    mean = tmp_path / "mean"
    assert runner.invoke(app, ["average", str(mean), str(out), str(tmp_path / "more")]).exit_code == 0
    weights = [load_file(folder / "model.safetensors") for folder in (out, tmp_path / "more", mean)]
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    for name, tensor in weights[2].items():
        torch.testing.assert_close(tensor, (weights[0][name] + weights[1][name]) / 2)
    (stage,) = json.loads((mean / "recipe.json").read_text())["stages"]
    assert [len(parent["stages"]) for parent in stage["average_of"]] == [1, 2]
    wrong = runner.invoke(app, ["demonstrate", str(tmp_path / "x.npz"), "--episodes", "coffee"])
    assert wrong.exit_code == 2
    assert "SITUATION=COUNT" in wrong.output


def test_compare_shows_two_results_side_by_side(tmp_path: Path) -> None:
    for name, value in (("a", 1.0), ("b", 2.5)):
        document = figures.document("x", [Figure("tsr", value, "percent")], [0])
        figures.write(tmp_path / f"{name}.json", document)
    result = runner.invoke(app, ["bench", "compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")])
    assert "2.5" in result.output


def test_a_pipe_hears_of_long_work_a_tenth_at_a_time(capfd: pytest.CaptureFixture[str]) -> None:
    with bar("rollouts", "episodes") as update:
        for done in range(1, 41):
            update(done, 40)
    lines = [
        line for line in capfd.readouterr().err.splitlines() if line.startswith("rollouts ") and "/" in line
    ]
    assert [line.split()[1] for line in lines][:3] == ["1/40", "4/40", "8/40"]
    assert 11 <= len(lines) <= 12


def test_a_pipe_is_not_left_without_a_word_for_long(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlaforget_ros.cli.output.SILENCE_S", 0.0)
    with bar("edit", "steps") as update:
        for number in range(3):
            update(1, 400, f"ranking layers: {number} of 32")
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("edit 1/400")]
    assert [line.split(": ")[1] for line in lines] == [f"{number} of 32" for number in range(3)]


def test_an_adapter_trained_elsewhere_is_added_checked_and_cannot_become_stable(tmp_path: Path) -> None:
    policy = VlaPolicy.load(models_directory() / "tiny")
    targets = r".*layers\.\d+\.self_attn\.q_proj"
    get_peft_model(policy.model, LoraConfig(r=4, target_modules=targets)).save_pretrained(tmp_path / "lora")
    store = ["--store", str(tmp_path / "store")]
    added = runner.invoke(
        app, ["adapters", "add", str(tmp_path / "lora"), "--base", "tiny", "--name", "theirs", *store]
    )
    assert added.exit_code == 0, added.output
    assert "3 layers, rank 4" in added.output
    found = AdapterStore(tmp_path / "store")
    manifest = found.manifest(found.resolve("theirs"))
    assert (manifest.core.base_digest, manifest.core.method) == (policy.base_digest, "external")
    assert manifest.core.components == ("language",)
    assert manifest.core.layers == tuple(f"language_model.model.layers.{number}" for number in range(3))
    # Nothing judged it: that is neither passed nor failed.
    listed = json.loads(runner.invoke(app, ["adapters", "list", "--json", *store]).output)
    assert [(entry["gates"], entry["gates_passed"]) for entry in listed] == [("none", False)]
    found.load(manifest.digest, base_digest=policy.base_digest)
    promoted = runner.invoke(app, ["adapters", "alias", "stable", "theirs", *store])
    assert "108" in str(promoted.exception) + promoted.output

    write_oft(tmp_path / "other")
    wrong = [
        "adapters",
        "add",
        str(tmp_path / "lora"),
        "--base",
        str(tmp_path / "other"),
        "--name",
        "x",
        *store,
    ]
    refused = runner.invoke(app, wrong)
    assert "104" in str(refused.exception) + refused.output
    assert len(found.manifests()) == 1
