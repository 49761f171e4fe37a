import json
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure as Plot

from vlaforget_ros import figures
from vlaforget_ros.demo import report
from vlaforget_ros.figures import Figure
from vlaforget_ros.report import plots
from vlaforget_ros.report.pictures import Strip

ROUND = {
    "stage": "visual",
    "round": 1,
    "layers": ["vision_backbone.featurizer.blocks.1"],
    "kept": True,
    "reason": "less of it & nothing hurt <ok>",
    "scores": [
        {"layer": "vision_backbone.featurizer.blocks.0", "score": 0.1},
        {"layer": "vision_backbone.featurizer.blocks.1", "score": 0.4},
    ],
    "curve": [
        {"step": 1, "retain": 2.0, "cosine": -0.1, "projected": True},
        {"step": 5, "retain": 1.0, "cosine": 0.1, "projected": False},
    ],
}
EDIT = {
    "rounds": [ROUND],
    "gates": [{"name": "fc_min", "value": 97.0, "limit": 95.0, "verdict": "passed"}],
    "sources": ["forget: 4 episodes"],
    "remarks": ["out of time: stage language did not run"],
    "request_sha256": "ab" * 32,
    "request": {"seed": 0},
    "provenance": {"datasets": {"forget": "cd" * 32}},
}


def document() -> dict[str, object]:
    found = [
        Figure("svr_before", 90.0, "percent", 40, 77.0, 96.0),
        Figure("svr_after", 0.0, "percent", 40, 0.0, 8.8),
        Figure("swap_ms", 0.01, "ms"),
    ]
    return figures.document(
        "demo",
        found,
        [0, 1],
        created="2026-11-21T00:00:00",
        scenario={"name": "trigger", "summary": "a sticker <pulls>"},
        adapter="ef" * 32,
        base_digest="01" * 32,
    )


def test_the_report_is_one_file_with_verdict_table_pictures_and_limits() -> None:
    strip = Strip("faucet", np.zeros((8, 16, 3), np.uint8), np.zeros((8, 16, 3), np.uint8))
    verdict = {"better": True, "reasons": ["yes: 90 % → 0 %"]}
    html = report.render(document(), EDIT, plots.edit_plots(EDIT), [strip], verdict)
    assert "out of time: stage language did not run" in html
    assert html.index("Better after the edit") < html.index("SVR, forget scenario") < html.index("Not proven")
    assert "90.0 %" in html
    assert "http" not in html.replace("http-equiv", ""), "nothing is loaded from elsewhere"
    assert html.count("data:image/jpeg;base64") == 2
    assert html.count("data:image/svg+xml;base64") == 2
    assert "&lt;pulls&gt;" in html, "texts are escaped"
    for word in ("deleted", "certified erasure"):
        assert word not in html


def test_a_failed_run_says_so_first() -> None:
    html = report.render(document(), EDIT, {"x": Plot()}, [], {"better": False, "reasons": []})
    assert "Not better after the edit" in html


def test_the_document_is_the_one_form_of_all_benchmarks(tmp_path: Path) -> None:
    figures.write(tmp_path / "runs" / "summary.json", document())  # type: ignore[arg-type]
    read = json.loads((tmp_path / "runs" / "summary.json").read_text())
    assert {"benchmark", "commit", "hardware", "versions", "seeds", "figures"} <= set(read)
    assert set(read["figures"][0]) == {"name", "value", "unit", "n", "low", "high"}
