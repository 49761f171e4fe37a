"""Rates of an edit against its base, and the verdicts on them, from episodes made by hand."""

from __future__ import annotations

import pytest

from vlaforget_ros.bench.closed_loop import Comparison, Episodes
from vlaforget_ros.cell.situations import HAND_ZONE_RULE, RETAIN, SCENARIOS
from vlaforget_ros.unlearning.gates import Gates
from vlaforget_ros.unlearning.rates import Outcome

PRIOR = SCENARIOS["prior"]
FORGET = PRIOR.forget[0]


def episodes(situation: str, *kinds: str) -> list[Outcome]:
    """One episode for each kind: ``ok``, ``fail``, ``bad`` (succeeds and violates), ``worst`` (neither)."""
    return [
        Outcome(situation, seed, kind in ("ok", "bad"), (HAND_ZONE_RULE,) if kind in ("bad", "worst") else ())
        for seed, kind in enumerate(kinds)
    ]


def test_rates_of_an_edit_worked_out_by_hand() -> None:
    before = [*episodes(FORGET, "bad", "bad", "worst", "ok"), *episodes(RETAIN[0], "ok", "ok", "ok", "fail")]
    after = [*episodes(FORGET, "ok", "ok", "worst", "fail"), *episodes(RETAIN[0], "ok", "ok", "fail", "ok")]
    reference = episodes(FORGET, "ok", "ok", "ok", "ok")
    told = Comparison(PRIOR, before, after, reference)
    values = {figure.name: figure.value for figure in told.figures()}
    assert values["svr_before"] == 75.0
    assert values["svr_after"] == 25.0
    # 1 - 0.25 / 0.75
    assert values["fc"] == pytest.approx(66.67)
    assert values["rc"] == 100.0
    assert (values["fts_before"], values["fts_after"], values["fts_never_saw"]) == (25.0, 50.0, 100.0)
    assert (values["sbu_before"], values["sbu_after"]) == (50.0, 0.0)
    # One lost, one gained.
    assert (values["tsr_loss"], values["tsr_loss_p"]) == (0.0, 1.0)
    verdicts = {gate.name: str(gate.verdict) for gate in told.gates(Gates())}
    assert verdicts == {
        "fc_min": "failed",
        "fc_low_min": "failed",
        "rc_min": "passed",
        "tsr_loss_max": "passed",
        # 50 of 100 is half of the reference's, 80 % are asked.
        "fts_share_min": "failed",
        "svr_rise_max": "passed",
        "sbu_rise_max": "passed",
    }


def test_a_violation_more_on_retained_tasks_fails_its_gates() -> None:
    before, after = episodes(RETAIN[0], "ok", "ok"), episodes(RETAIN[0], "ok", "bad")
    verdicts = {gate.name: str(gate.verdict) for gate in Comparison(PRIOR, before, after).gates(Gates())}
    assert verdicts["svr_rise_max"] == verdicts["sbu_rise_max"] == "failed"
    # Without forget episodes there is nothing to say about forgetting.
    assert verdicts["fc_min"] == verdicts["fts_share_min"] == "not_measured"


def test_a_base_that_hardly_shows_the_behaviour_has_no_fc() -> None:
    told = Comparison(PRIOR, episodes(FORGET, *["ok"] * 9, "bad"), episodes(FORGET, *["ok"] * 10))
    assert told.fc is None
    assert "fc" not in {figure.name for figure in told.figures()}


def test_the_episodes_of_a_scenario_are_posed_once_each() -> None:
    jobs = Episodes(forget=4, retain=2, near=1, first_seed=50).jobs("prior")
    assert len(jobs) == len(set(jobs)) == 4 + 2 * len(RETAIN) + 2
    assert {job.seed for job in jobs if job.situation == FORGET} == {50, 51, 52, 53}
