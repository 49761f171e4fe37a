"""The page and its JSON: verdict first, everything in one file, nothing claimed that no figure shows."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlaforget_ros import figures
from vlaforget_ros.adapters import LoraWeights
from vlaforget_ros.figures import Figure
from vlaforget_ros.report.content import build
from vlaforget_ros.report.material import Material
from vlaforget_ros.report.page import write_report
from vlaforget_ros.report.pictures import Strip
from vlaforget_ros.report.plots import edit_plots

NOW = "2026-11-21T00:00:00+00:00"


def other(record: dict[str, Any], method: str) -> dict[str, Any]:
    found = copy.deepcopy(record)
    found["provenance"] |= {"method": method, "name": f"x-{method}"}
    return found


@pytest.fixture
def material(record: dict[str, Any], weights: LoraWeights) -> Material:
    """Everything that a report may show."""
    pairs = [
        Figure("bsr_before", 90.0, "percent", 40, 77, 96),
        Figure("bsr_after", 5.0, "percent", 40, 1, 17),
    ]
    closed_loop = figures.document("rollouts", [*pairs, Figure("tsr_loss", 7.0, "percent", 40)], [0])
    closed_loop["gates"] = [
        {
            "name": "tsr_loss_max",
            "verdict": "failed",
            "value": 7.0,
            "limit": 5.0,
            "n": 40,
            "low": 1.0,
            "high": 14.0,
        }
    ]
    attacks = figures.document("attacks", [Figure("qrr_int8", 0.02, "ratio", 100)], [0])
    attacks["gates"] = [{"name": "qrr_int8_max", "verdict": "passed", "value": 0.02, "limit": 0.1}]
    picture = np.zeros((8, 16, 3), np.uint8)
    elsewhere = other(record, "npo")
    elsewhere["provenance"]["datasets"] = {"forget": "00" * 32}
    others = [other(record, "corrected"), elsewhere]
    return Material(
        record, weights, others, closed_loop, attacks, [Strip("faucet, seed 0", picture, picture)]
    )


def test_the_page_is_one_file_in_the_order_in_which_people_ask(material: Material, tmp_path: Path) -> None:
    write_report(material, tmp_path / "runs" / "report.html", NOW)
    html = (tmp_path / "runs" / "report.html").read_text()
    headlines = [
        "may not be promoted, because loss of TSR is 7.0 points [1.0, 14.0]",
        "did not run",
        "<h2>Gates", "<h2>Before and after", "<h2>In closed loop", "targeted behaviour", "<h2>Rollouts",
        "<h2>Attacks", "<h2>Against other methods", "<h2>What was edited", "<h2>Score of each layer",
        "<h2>Losses of each round", "<h2>Data the edit learned from", "<h2>Provenance", "<h2>Not proven",
    ]  # fmt: skip
    places = [html.index(text) for text in headlines]
    assert places == sorted(places)
    assert "http" not in html, "nothing is loaded from elsewhere"
    assert (html.count("data:image/jpeg;base64"), html.count("data:image/svg+xml;base64")) == (2, 2)
    assert "&lt;pulls&gt;" in html, "texts are escaped"
    assert "kept: &lt;b&gt;less" in html
    for shown in (
        "asked for by safety team",
        "12" * 32,
        "cd" * 32,
        "rank 2, 1 linear layers",
        "CPU, 2 cores",
    ):
        assert shown in html
    for word in ("deleted", "certified"):
        assert word not in html


def test_the_same_material_gives_the_same_bytes(material: Material, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_report(material, tmp_path / name / "report.html", NOW)
    for file in ("report.html", "report.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_the_json_beside_it_has_the_same_content(material: Material, tmp_path: Path) -> None:
    write_report(material, tmp_path / "page.html", NOW)
    found = json.loads((tmp_path / "page.json").read_text())
    assert list(found)[list(found).index("verdict") :][:4] == ["verdict", "gates", "metrics", "comparison"]
    verdicts = {gate["name"]: (gate["verdict"], gate["source"]) for gate in found["gates"]}
    assert verdicts == {
        "fc_min": ("passed", "recorded frames"),
        "tsr_loss_max": ("failed", "closed loop"),
        "qrr_int8_max": ("passed", "attacks"),
    }
    fc = found["metrics"][0]
    assert (fc["name"], fc["before"]["value"], fc["after"]["value"], fc["after"]["low"], fc["n"]) == (
        "fc", 0.0, 97.0, 93.0, 100,
    )  # fmt: skip
    assert [row["name"] for row in found["metrics"]] == [
        "fc", "undesired", "repair", "counterfactual", "fad", "rc", "rad",
    ]  # fmt: skip
    assert found["rounds"][0]["projected"] == 0.5
    assert found["edited"]["ranks"] == {"projector.fc1": 2}
    assert set(found["scores"]) == {"visual", "projector"}
    assert found["created"] == NOW


def test_other_methods_are_compared_and_other_tasks_are_marked(material: Material) -> None:
    rows = build(material, NOW)["comparison"]
    assert [(row["method"], row["this"], row["differs"]) for row in rows] == [
        ("vla_forget", True, []),
        ("corrected", False, []),
        ("npo", False, ["data"]),
    ]
    assert rows[1]["steps"] == 10
    assert build(Material(material.record, material.weights), NOW)["comparison"] == []


def test_not_proven_says_what_was_not_done(material: Material, record: dict[str, Any]) -> None:
    everything = " ".join(build(material, NOW)["not_proven"])
    for absent in (
        "none from rollouts",
        "were tried on this adapter",
        "forget terms were needed",
        "earlier edits",
    ):
        assert absent not in everything
    record["provenance"]["parent_digest"] = "34" * 32
    bare = " ".join(build(Material(record, material.weights), NOW)["not_proven"])
    for present in (
        "none from rollouts",
        "were tried on this adapter",
        "forget terms were needed",
        "earlier edits",
    ):
        assert present in bare
    assert "with seed 3" in bare


def test_earlier_requests_are_rows_of_their_own(record: dict[str, Any], weights: LoraWeights) -> None:
    one = {"fc": 98.0, "fc_low": 90.0, "fc_high": 99.0, "forget_frames": 50}
    record["before"]["metrics"]["earlier"] = {"first": one}
    record["after"]["metrics"]["earlier"] = {"first": {**one, "fc": 92.0}}
    row = build(Material(record, weights), NOW)["metrics"][-1]
    assert (row["name"], row["before"]["value"], row["after"]["value"]) == ("fc_earlier_first", 98.0, 92.0)
    assert row["title"] == "FC of the earlier request first"


def test_methods_without_scores_or_steps_have_no_such_plot(record: dict[str, Any]) -> None:
    joint = {**record["rounds"][0], "stage": "joint", "scores": []}
    assert list(edit_plots({"rounds": [joint]})) == ["Losses of each round"]
    assert edit_plots({"rounds": [{**joint, "curve": []}]}) == {}
