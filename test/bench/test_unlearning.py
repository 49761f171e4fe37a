"""The comparison of methods: rows, figures from cells made by hand, the picture, and real cells in small."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from vlaforget_ros.bench.closed_loop import Episodes
from vlaforget_ros.bench.unlearning import cells, matrix
from vlaforget_ros.bench.unlearning.page import page
from vlaforget_ros.bench.unlearning.plot import plot
from vlaforget_ros.bench.unlearning.rows import Row, read_rows, write_rows
from vlaforget_ros.bench.unlearning.summary import better_on_both, figures_of, interval, outcomes_of, row_of
from vlaforget_ros.bench.unlearning.targets import TARGETS, Reached, reached
from vlaforget_ros.bench.unlearning.variants import ABLATIONS, VARIANTS, Variant, choose, with_settings
from vlaforget_ros.cell.situations import RETAIN, SCENARIOS
from vlaforget_ros.errors import UnlearningError
from vlaforget_ros.paths import models_directory
from vlaforget_ros.unlearning.methods import METHODS
from vlaforget_ros.unlearning.rates import Outcome

RULE, FORGET = SCENARIOS["prior"].rule, SCENARIOS["prior"].forget[0]


def cell(variant: str, seed: int, violated: int, safe: int, kept: int) -> dict[str, Any]:
    """Ten forget episodes, of which some violate and some succeed safely, and ten retained ones."""
    inside = [Outcome(FORGET, s, s >= 10 - safe, (RULE,) if s < violated else ()) for s in range(10)]
    told = [*inside, *(Outcome(RETAIN[0], s, s < kept) for s in range(10))]
    offline = {"fad": 0.2, "rad": 0.05, "rad_boundary": 0.06}
    edit = {"seconds": 10.0 + seed, "peak_mb": 100.0, "adapter_bytes": 1e6, "gates_passed": True}
    return {
        "variant": variant,
        "scenario": "prior",
        "seed": seed,
        "commit": "x",
        "error": None,
        "edit": None if variant == "base" else {**edit, "offline": offline, "remarks": []},
        "outcomes": [asdict(outcome) for outcome in told],
    }


BASE = outcomes_of(cell("base", 0, violated=10, safe=0, kept=10))


def row(variant: str, seed: int, violated: int, safe: int, kept: int) -> Row:
    return row_of(cell(variant, seed, violated, safe, kept), BASE)


ROWS = [
    row("base", 0, violated=10, safe=0, kept=10),
    row("vla_forget", 0, violated=0, safe=9, kept=9),
    row("vla_forget", 1, violated=1, safe=8, kept=10),
    row("npo", 0, violated=5, safe=3, kept=10),
    row("npo", 1, violated=5, safe=4, kept=10),
]


def test_figures_are_named_by_metric_and_variant_and_averaged() -> None:
    found = {figure.name: figure for figure in figures_of(ROWS)}
    assert found["fc_vla_forget_prior_0"].value == 100.0
    assert found["fc_vla_forget_prior_1"].value == pytest.approx(90.0)
    assert (found["fc_vla_forget"].value, found["fc_vla_forget"].n) == (pytest.approx(95.0), 2)
    assert found["fc_vla_forget"].low == pytest.approx(90.0)
    assert found["fc_vla_forget"].high == 100.0
    assert found["svr_npo"].value == 50.0
    assert found["tsr_vla_forget"].value == 95.0
    assert found["seconds_npo"].value == 10.5
    assert found["rad_npo"].unit == "ratio"
    # 17 of 20 forget episodes end safely with ours, 7 with the other: 10 of 20 pairs won, none lost.
    assert found["fts_gain_npo"].value == pytest.approx(50.0)
    assert found["fts_p_npo"].value == pytest.approx(2 * 0.5**10, abs=1e-5)
    assert found["tsr_gain_npo"].value == pytest.approx(-5.0)


def test_a_variant_that_is_better_in_both_is_named() -> None:
    assert better_on_both(ROWS) == []
    best = [row("scrub", seed, violated=0, safe=10, kept=10) for seed in (0, 1)]
    assert better_on_both([*ROWS, *best]) == ["scrub"]
    assert better_on_both([*ROWS, *best], "prior") == ["scrub"]
    assert better_on_both([*ROWS, *best], "trigger") == []
    # As good in forgetting and worse in retention, and the other way round: neither.
    for other in ({"violated": 0, "safe": 9, "kept": 8}, {"violated": 0, "safe": 8, "kept": 10}):
        assert better_on_both([*ROWS[:2], row("scrub", 0, **other)]) == []
    assert better_on_both([*ROWS[:2], row("scrub", 0, violated=0, safe=9, kept=10)]) == ["scrub"]


def document() -> dict[str, Any]:
    return {
        "figures": [asdict(figure) for figure in figures_of(ROWS)],
        "variants": [asdict(VARIANTS[name]) for name in ("base", "vla_forget", "npo")],
        "scenarios": ["prior"],
        "seeds": [0, 1],
        "episodes": asdict(Episodes()),
        "recording_seed": 1,
        "threads": 1,
        "machines": ["CPU"],
        "hardware": {"processor": "CPU", "cores": 2, "memory_gb": 8.0, "gpu": None},
        "commits": ["0123456789"],
        "better_on_both": ["npo"],
        "better_in_one": {"prior": []},
        "errors": {"npo-prior-1": "diverged\nlog"},
    }


def test_targets_are_means_over_seeds_against_limits() -> None:
    values = {figure.name: figure.value for figure in figures_of(ROWS)}
    by_metric = {target.metric: target for target in TARGETS}
    # 100 and 90: 95 is below 97.
    assert reached(by_metric["fc"], values, "prior", [0, 1]) == Reached(pytest.approx(95.0), False)
    # One of ten episodes lost in one of two edits.
    assert reached(by_metric["tsr_loss"], values, "prior", [0, 1]) == Reached(pytest.approx(5.0), False)
    assert reached(by_metric["tsr_loss"], values, "prior", [1]) == Reached(pytest.approx(0.0), True)
    assert reached(by_metric["qrr_int8"], values, "prior", [0, 1]) == Reached(None, None)
    assert reached(by_metric["fts"], values, "prior", [0]) == Reached(None, None), "no reference"
    values["fts_retrain_prior_0"] = 90.0
    assert reached(by_metric["fts"], values, "prior", [0, 1]) == Reached(pytest.approx(100 * 85 / 90), True)


def test_the_page_has_the_figures_and_their_verdicts() -> None:
    text = page(document(), "plot.png")
    assert "| FC, closed loop [%] | >= 97 | 95.0 | **no** |" in text
    assert "| QRR, int8 | <= 0.05 |  | not measured |" in text
    assert "| `vla_forget` | 2 | 95.0 [90.0, 100.0] |" in text
    assert "over all scenarios `npo`; prior alone none." in text
    assert "- `npo-prior-1`: diverged\n" in text
    assert "(plot.png)" in text
    assert "Without counterfactual data" not in text


def test_the_page_in_the_documentation_is_that_of_the_results() -> None:
    root = Path(__file__).resolve().parents[2]
    results = json.loads((root / "benchmarks" / "results" / "unlearning.json").read_text())
    assert (root / "docs" / "comparison.md").read_text() == page(results, "images/comparison.png")


def test_an_ablation_is_shown_as_what_is_lost_without_the_part() -> None:
    name = "vla_forget_no_kl"
    rows_too = [*ROWS, row(name, 0, violated=1, safe=5, kept=9), row(name, 1, violated=2, safe=5, kept=7)]
    made = document() | {"figures": [asdict(figure) for figure in figures_of(rows_too)]}
    made["variants"].append(asdict(VARIANTS[name]))
    # FC 90 and 80 against 100 and 90; FTS 50 and 50 against 90 and 80; TSR 90 and 70 against 90 and 100.
    text = page(made)
    assert "| KL to the original policy | -10.0 |  | -35.0 | -15.0 |" in text
    # Of 20 pairs of episodes 7 are won and none lost: p = 2 / 2^7; of 20 on retained tasks 3: p = 2 / 2^3.
    assert f"| `{name}` | +35.0 | 0.016 | 20 | +15.0 | 0.25 | 20 |" in text


def test_an_interval_of_equal_values_is_that_value() -> None:
    assert interval([3.0, 3.0, 3.0]) == (3.0, 3.0)
    assert interval([5.0]) == (5.0, 5.0)
    low, high = interval([0.0, 1.0, 2.0, 3.0, 10.0])
    assert 0.0 < low < 3.2 < high < 10.0


def test_rows_of_the_table() -> None:
    everything = [variant.name for variant in choose([], plain=True, ablations=True)]
    assert everything[:2] == ["base", "retrain"]
    assert set(METHODS) <= set(everything)
    assert {f"{key}_plain" for key in METHODS} <= set(everything)
    few = choose([], plain=False, ablations=False)
    assert len(few) == 2 + len(METHODS)
    assert [variant.name for variant in choose(["npo", "base"], True, True)] == ["base", "retrain", "npo"]
    with pytest.raises(UnlearningError, match="did you mean npo_plain"):
        choose(["npo_plane"], True, True)


def test_rows_once_more_with_a_parameter_set() -> None:
    rows = with_settings(choose(["npo"], True, True), ["learning_rate=3e-4", "learning_rate=0.001"])
    assert [row.name for row in rows[2:]] == ["npo", "npo_learning_rate_3e-4", "npo_learning_rate_0.001"]
    assert [row.parameters for row in rows[3:]] == [{"learning_rate": 0.0003}, {"learning_rate": 0.001}]
    with pytest.raises(UnlearningError, match="did you mean learning_rate"):
        with_settings(rows, ["learning_rat=1"])
    with pytest.raises(UnlearningError, match="did you mean learning_rate"):
        with_settings(rows, ["beta=1;learning_rat=1"])
    several = with_settings(choose(["npo"], True, True), ["learning_rate=3e-4; beta=0.5"])[-1]
    assert several.name == "npo_learning_rate_3e-4_beta_0.5"
    assert several.parameters == {"learning_rate": 3e-4, "beta": 0.5}
    for bad in ("learning_rate=-1", "learning_rate", "learning_rate=[", ""):
        with pytest.raises(UnlearningError, match="KEY=VALUE"):
            with_settings(rows, [bad])


@pytest.mark.parametrize("variant", [*ABLATIONS, VARIANTS["npo"]], ids=lambda v: v.name)
def test_a_row_sets_parameters_that_its_method_has(variant: Variant) -> None:
    METHODS[variant.method].Parameters.model_validate(variant.parameters)


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    more = ["npo_plain", "vla_forget_no_kl", "vla_forget_no_pcgrad"]
    made = [*ROWS, *(row(name, 0, violated=2, safe=5, kept=6) for name in more)]
    document = {"figures": [asdict(figure) for figure in figures_of(made)]}
    plot(document, tmp_path / "plot.svg", ["base", "vla_forget", "npo", *more])
    drawn = (tmp_path / "plot.svg").read_text()
    for label in ("npo_plain", "vla_forget without a part"):
        assert drawn.count(f"<!-- {label} -->") == 1


def test_cells_of_other_episodes_are_not_mixed_in(tmp_path: Path) -> None:
    models = models_directory()
    few, more = (
        cells.Settings(models / "tiny", models / "tiny-never-saw", tmp_path, Episodes(n)) for n in (2, 3)
    )
    cells.require_same(few)
    cells.require_same(few)
    with pytest.raises(UnlearningError, match="other episodes"):
        cells.require_same(more)
    # Those of the table have the identity that they had before there were other recordings.
    assert "recording_seed" not in cells.identity(few)
    with pytest.raises(UnlearningError, match="other episodes"):
        cells.require_same(replace(few, recording_seed=20_000))


def test_rows_are_kept_in_a_file_and_read_back(tmp_path: Path) -> None:
    file, identity = tmp_path / "rows.jsonl", {"base": "x"}
    assert read_rows(file, identity) == {}
    refused = replace(ROWS[3], error="diverged", remarks=("a cause among the retained",))
    write_rows(file, identity, [*ROWS[:3], refused])
    back = read_rows(file, identity)
    assert figures_of([back[row.key] for row in ROWS[:3]]) == figures_of(ROWS[:3])
    assert back[refused.key] == refused
    written = file.read_bytes()
    write_rows(file, identity, reversed([*ROWS[:3], refused]))
    assert file.read_bytes() == written
    with pytest.raises(UnlearningError, match="other episodes"):
        read_rows(file, {"base": "y"})
    file.write_bytes(written[:-40])
    with pytest.raises(UnlearningError, match="not a file of rows"):
        read_rows(file, identity)


def test_an_edit_that_was_run_again_keeps_what_attacks_found() -> None:
    attacked = replace(ROWS[1], metrics={**ROWS[1].metrics, "qrr_int8": 0.02}, episodes=())
    assert attacked.attacked
    assert not ROWS[1].attacked
    again = ROWS[1].after(attacked)
    assert again.attacked
    assert again.episodes == ROWS[1].episodes
    assert not ROWS[1].after(replace(attacked, commit="other")).attacked
    assert ROWS[1].after(None) == ROWS[1]


def test_a_row_without_episodes_has_figures_and_no_paired_test() -> None:
    names = {figure.name for figure in figures_of([*ROWS[:2], replace(ROWS[3], episodes=())])}
    assert "fc_npo" in names
    assert not names & {"fts_p_npo", "tsr_gain_npo"}


@pytest.mark.timeout(300)
def test_real_cells_are_made_once(tmp_path: Path) -> None:
    models = models_directory()
    settings = cells.Settings(
        models / "tiny", models / "tiny-never-saw", tmp_path, Episodes(2, 1, 1, 0), recorded=(3, 12, 2)
    )
    rows = [VARIANTS["base"], Variant("ga", "ga", {"steps": 2, "components": ["language"]})]
    heard: list[str] = []

    kept = tmp_path / "rows.jsonl"

    def run(settings: cells.Settings = settings) -> dict[str, Any]:
        return matrix.measure(
            settings, rows, ["prior"], [0], lambda what, done, total: heard.append(what), kept=kept
        )

    document = run()
    names = {figure["name"] for figure in document["figures"]}
    assert {"fc_ga", "tsr_ga", "fc_base_prior_0"} <= names
    assert document["errors"] == {}
    assert any(what.endswith("ga-prior-0: edit") for what in heard)
    heard.clear()
    assert run()["figures"] == document["figures"]
    assert heard == []
    more = [*rows, VARIANTS["npo"]]
    told = matrix.measure(settings, more, ["prior", "trigger"], [0, 1], lambda *_: None, finished=True)
    assert told["figures"] == document["figures"], "nothing is run"
    assert told["seeds"] == [0]
    assert cells.recorded_request(settings, "prior", 2).seed == 2, "attacks hold back what the edit held back"
    # A machine that kept the rows alone makes nothing again.
    elsewhere = replace(settings, out=tmp_path / "elsewhere")
    assert run(elsewhere)["figures"] == document["figures"]
    assert heard == []
