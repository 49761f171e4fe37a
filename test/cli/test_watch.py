"""What `vlaforget watch` shows of an arm, from messages made by hand, and of real nodes."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from manual_clock import ManualClock
from rich.console import Console

from vlaforget_ros.cli.watch import View

A, B = "a" * 64, "b" * 64


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def view(clock: ManualClock) -> View:
    return View(clock)


def action(digest: str, step: int, fault: int = 0) -> SimpleNamespace:
    return SimpleNamespace(adapter_digest=digest, step=step, fault=fault, inference_ms=8.0)


def status(digest: str, resident: list[str]) -> SimpleNamespace:
    return SimpleNamespace(
        active_digest=digest,
        resident=resident,
        model="tiny",
        base_digest="c" * 64,
        state=3,
        missed_ticks=2,
        last_fault=0,
    )


def text_of(view: View) -> str:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(view.shown())
    return console.export_text()


def test_a_swap_is_what_actions_show(view: View, clock: ManualClock) -> None:
    view.on_action(action("", 0))
    assert view.since(0) == []
    view.name({A: "careful"})
    clock.now += 1.5
    view.on_action(action(A, 15))
    view.on_action(action(A, 16))
    assert view.since(0) == ["     1.5 s  swap: base → aaaaaaaaaaaa careful at tick 15"]
    assert view.since(1) == []


def test_faults_begin_and_end(view: View) -> None:
    for fault in (0, 200, 200, 0):
        view.on_action(action("", 0, fault))
    assert [line.split("  ")[-1] for line in view.since(0)] == [
        "fault 200 POLICY_STALE_IMAGE",
        "fault 200 is over",
    ]


def test_rates_stand_beside_their_adapter(view: View) -> None:
    estimate = SimpleNamespace(
        adapter_digest=B,
        rollouts=40,
        svr=0.025,
        svr_low=0.001,
        svr_high=0.13,
        tsr=0.9,
        tsr_low=0.7,
        tsr_high=0.97,
    )
    view.on_status(status(A, [A, B]))
    assert view.unnamed
    view.name({A: "careful"})
    assert not view.unnamed
    view.on_safety(SimpleNamespace(state=2, reason="keep_out/hand_zone", estimates=[estimate]))
    text = text_of(view)
    (row,) = [line for line in text.splitlines() if "bbbbbbbbbbbb" in line]
    assert "2.5 [0.1, 13.0]" in row
    assert "90.0 [70.0, 97.0]" in row
    assert "resident" in row
    (first,) = [line for line in text.splitlines() if "careful" in line and "serves" in line]
    assert text.index(first) < text.index(row), "what serves comes first"
    assert "STOPPED keep_out/hand_zone" in text
    assert "tiny cccccccccccc, running" in text


def test_the_rate_is_that_of_the_last_seconds(view: View, clock: ManualClock) -> None:
    for _ in range(50):
        clock.now += 0.1
        view.on_action(action("", 0))
    assert "10.0 Hz" in text_of(view)
    clock.now += 60
    assert "0.0 Hz" in text_of(view)


def test_violations_and_rollouts_are_lines(view: View) -> None:
    view.on_rollout(
        SimpleNamespace(
            rollout_id="0123456789", phase=2, steps=7, instruction="open the faucet", adapter_digest=""
        )
    )
    view.on_violation(
        SimpleNamespace(rule="keep_out/hand", value=0.012, limit=0.05, unit="m", adapter_digest=A)
    )
    first, second = view.since(0)
    assert first.endswith("rollout 01234567 failed after 7 ticks: 'open the faucet', base")
    assert second.endswith("violation keep_out/hand: 0.012 m (limit 0.05), aaaaaaaaaaaa")


def canary(phase: int, verdict: int = 0, **others: object) -> SimpleNamespace:
    values: dict[str, object] = {
        "canary_id": "20261122T105000-0a",
        "candidate_digest": A,
        "stable_digest": B,
        "phase": phase,
        "weight": 0.5,
        "verdict": verdict,
        "reason": "step 2 of 3",
        "candidate_rollouts": 21,
        "candidate_violated": 1,
        "candidate_succeeded": 19,
        "stable_rollouts": 23,
        "stable_violated": 2,
        "stable_succeeded": 20,
        "violation_statistic": -0.75,
        "violation_threshold": 2.94,
        "success_statistic": 1.5,
        "success_threshold": 3.94,
    }
    return SimpleNamespace(**{**values, **others})


def test_a_canary_is_an_event_when_its_phase_or_verdict_changes(view: View) -> None:
    view.on_canary(canary(0, weight=0.0, canary_id=""))
    assert view.since(0) == []
    view.on_canary(canary(2, weight=1.0, reason="slowly"))
    view.on_canary(canary(2, weight=1.0, reason="slowly, another rollout"))
    view.name({A: "careful"})
    view.on_canary(canary(3))
    view.on_canary(canary(3, weight=1.0))
    view.on_canary(canary(3, verdict=3, reason="the candidate broke keep_out/hand"))
    assert [line.split("  ")[-1] for line in view.since(0)] == [
        "canary of aaaaaaaaaaaa: reduced speed 100%: slowly",
        "canary of aaaaaaaaaaaa careful: ramp 50%: step 2 of 3",
        "canary of aaaaaaaaaaaa careful: ABORT: the candidate broke keep_out/hand",
    ]


def test_a_canary_is_shown_while_it_runs(view: View, clock: ManualClock) -> None:
    assert "evidence" not in text_of(view)
    view.on_canary(canary(3))
    assert view.unnamed, "candidate and stable have names"
    view.name({A: "careful", B: "corrected"})
    text = text_of(view)
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if "│" in line]
    rows = {row[0]: row[1:] for row in cells}
    assert rows["rollouts"] == ["21", "23"]
    assert rows["violated"] == ["1", "2"]
    assert rows["succeeded"] == ["19", "20"]
    assert rows["phase, share of rollouts"] == ["ramp, 50%", ""]
    assert rows["evidence: violates too often"] == ["-0.75 of 2.94", ""]
    assert rows["evidence: succeeds too seldom"] == ["1.50 of 3.94", ""]
    assert "canary: step 2 of 3" in text.splitlines()
    assert "last heard" not in rows
    clock.now += 60
    assert "60 s ago" in text_of(view), "a monitor that died leaves its last word"
    view.on_canary(canary(3, verdict=1))
    assert "evidence" not in text_of(view)
