"""The state machine: every way through a canary, and that nothing missing is taken for a proof."""

import json
import math

import pytest
from canary_parts import CANDIDATE, STABLE, Bench, make
from hypothesis import given, settings
from hypothesis import strategies as st

from vlaforget_ros.errors import CanaryError, ErrorCode
from vlaforget_ros.safety.canary.machine import Canary
from vlaforget_ros.safety.canary.protocol import Protocol
from vlaforget_ros.safety.canary.state import Arm, ArmCounts, Phase, Verdict
from vlaforget_ros.safety.rules.base import Severity

EVENTS = st.sampled_from(
    ["good", "bad", "fails", "aborted", "stable", "stable bad", "mixed", "pinned", "again", "other"]
)


def _drive(bench: Bench, event: str) -> None:
    """One of EVENTS."""
    rules = ("zone",) if "bad" in event else ()
    if event.startswith("stable"):
        bench.drive(candidate=False, rules=rules)
    elif event == "again":
        bench.drive(rules=("zone",), rollout_id="r1")
    elif event == "other":
        bench.drive(digest="0" * 64)
    elif event == "pinned":
        bench.drive(arm=Arm.PINNED)
    else:
        success = None if event == "aborted" else event != "fails"
        bench.drive(rules=rules, success=success, mixed=event == "mixed")


def test_a_good_candidate_goes_through_all_phases_and_is_promoted() -> None:
    bench = make()
    assert bench.canary.state.phase is Phase.OFFLINE
    assert bench.canary.state.weight == 0.0
    assert bench.canary.offline(True, "gates passed").phase is Phase.SHADOW
    for _ in range(5):
        bench.canary.shadow_rollout(0.1, 0, 50)
    assert (bench.canary.state.phase, bench.canary.state.weight) == (Phase.REDUCED_SPEED, 1.0)
    assert bench.canary.state.speed_scale == 0.3
    weights = []
    while bench.canary.state.verdict is Verdict.RUNNING:
        bench.drive()
        weights.append(bench.canary.state.weight)
    state = bench.canary.state
    assert state.verdict is Verdict.PROMOTE
    assert weights[4:15] == [0.1] * 5 + [0.5] * 5 + [1.0]
    # 36 clean rollouts at full speed: 36 log(0.98 / 0.90) = 3.07 > log(20) = 3.00, 35 are not enough.
    assert state.candidate == ArmCounts(5 + 36, 0, 5 + 36)
    assert state.violation.accept == pytest.approx(36 * math.log(0.98 / 0.90))
    assert (state.weight, state.stop) == (0.0, False)


def test_a_candidate_that_violates_is_aborted_when_the_evidence_says_so() -> None:
    bench = make()
    bench.until(Phase.RAMP)
    for _ in range(3):
        bench.drive(rules=("zone",))
    # 3 log 5 - 5 log(0.98 / 0.90) = 4.40 of log(40) = 3.69; two would be 2.79.
    state = bench.canary.state
    assert state.verdict is Verdict.ABORT
    assert state.violation.abort == pytest.approx(3 * math.log(5) - 5 * math.log(0.98 / 0.90))
    assert "violates" in state.reason
    assert not state.stop


def test_violations_at_reduced_speed_count_against_it_and_clean_rollouts_not_for_it() -> None:
    bench = make()
    bench.until(Phase.REDUCED_SPEED)
    for _ in range(2):
        bench.drive(rules=("zone",))
    for _ in range(3):
        bench.drive()
    state = bench.canary.state
    assert state.phase is Phase.RAMP
    assert state.violation.accept == 0.0
    assert state.violation.abort == pytest.approx(2 * math.log(5) - 3 * math.log(0.98 / 0.90))
    assert state.success.abort == 0.0


def test_a_candidate_that_fails_is_aborted() -> None:
    bench = make()
    bench.until(Phase.RAMP)
    while bench.canary.state.verdict is Verdict.RUNNING:
        bench.drive(success=False)
    # log(0.30 / 0.15) = 0.69 a failure: six make 4.16 of 3.69.
    assert bench.canary.state.candidate.rollouts == 5 + 6
    assert bench.canary.state.verdict is Verdict.ABORT
    assert "succeeds" in bench.canary.state.reason


def test_a_severe_violation_aborts_at_once_seen_live_or_with_its_rollout() -> None:
    live, told, warned = make(), make(), make()
    for bench in (live, told, warned):
        bench.until(Phase.REDUCED_SPEED)
    assert warned.canary.violation(CANDIDATE, Severity.SLOW, "fast").verdict is Verdict.RUNNING
    assert live.canary.violation(CANDIDATE, Severity.STOP, "zone").verdict is Verdict.ABORT
    told.drive(rules=("zone",), severity=Severity.STOP)
    assert told.canary.state.verdict is Verdict.ABORT
    assert "zone" in told.canary.state.reason


def test_stable_breaking_a_rule_does_not_abort_the_candidate_but_stops_the_arm_if_both_do() -> None:
    bench = make()
    bench.until(Phase.RAMP)
    assert bench.canary.violation(STABLE, Severity.STOP, "zone").verdict is Verdict.RUNNING
    state = bench.canary.violation(CANDIDATE, Severity.STOP, "zone")
    assert (state.verdict, state.stop) == (Verdict.ABORT, True)


def test_stable_failing_its_own_test_holds_and_stops() -> None:
    bench = make()
    bench.until(Phase.RAMP)
    while bench.canary.state.verdict is Verdict.RUNNING:
        bench.drive(candidate=False, rules=("zone",))
    state = bench.canary.state
    assert (state.verdict, state.stop, state.stable.violated) == (Verdict.HOLD, True, 3)
    assert "stop the arm" in state.reason


def test_the_cure_of_a_stable_known_to_misbehave_is_judged_by_itself() -> None:
    before = ArmCounts(rollouts=20, violated=20, succeeded=20)
    for good, verdict, stop in ((True, Verdict.PROMOTE, False), (False, Verdict.ABORT, True)):
        bench = make(before, stable_failing="go_on")
        bench.until(Phase.RAMP)
        for _ in range(100):
            bench.drive(candidate=False, rules=("zone",))
            bench.drive(rules=() if good else ("zone",))
        assert (bench.canary.state.verdict, bench.canary.state.stop) == (verdict, stop)


def test_what_stable_did_before_counts_for_its_own_test() -> None:
    bench = make(ArmCounts(rollouts=20, violated=5, succeeded=18))
    bench.canary.offline(True)
    bench.drive(candidate=False)
    assert bench.canary.state.stop


def test_no_gates_no_ramp_and_too_few_data_never_promote() -> None:
    refused = make()
    assert refused.canary.offline(False, "RC 0.7").verdict is Verdict.ABORT
    assert "RC 0.7" in refused.canary.state.reason
    flat = make(phases=["offline"])
    assert flat.canary.offline(True).verdict is Verdict.HOLD
    short = make(max_rollouts=21)
    short.until(Phase.RAMP)
    while short.canary.state.verdict is Verdict.RUNNING:
        short.drive()
    assert short.canary.state.verdict is Verdict.HOLD
    assert "undecided after 21" in short.canary.state.reason


def test_an_unknown_reference_needs_rollouts_of_stable_whatever_the_candidate_does() -> None:
    alone, beside = (make(tsr_reference=None, phases=["ramp"]) for _ in range(2))
    for _ in range(10):
        beside.drive(candidate=False)
    for bench in (alone, beside):
        for _ in range(200):
            bench.drive()
    assert alone.canary.state.verdict is Verdict.HOLD
    assert beside.canary.state.verdict is Verdict.PROMOTE


@pytest.mark.parametrize(
    ("distance", "violations", "text"), [(0.3, 0, "mean distance 0.300"), (0.1, 1, "would-be")]
)
def test_a_shadow_that_goes_too_far_aborts(distance: float, violations: int, text: str) -> None:
    bench = make()
    bench.canary.offline(True)
    for _ in range(5):
        bench.canary.shadow_rollout(distance, violations, 10)
    assert bench.canary.state.verdict is Verdict.ABORT
    assert text in bench.canary.state.reason


def test_a_shadow_without_numbers_is_no_data() -> None:
    bench = make()
    bench.canary.offline(True)
    for _ in range(9):
        bench.canary.shadow_rollout(math.nan, 0, 10)
        bench.canary.shadow_rollout(0.0, 0, 0)
    assert bench.canary.state.phase is Phase.SHADOW
    assert bench.canary.state.shadow_rollouts == 0


@pytest.mark.parametrize(("phase", "verdict"), [(Phase.SHADOW, Verdict.HOLD), (Phase.RAMP, Verdict.ABORT)])
def test_silence_is_a_failure(phase: Phase, verdict: Verdict) -> None:
    bench = make()
    bench.until(phase) if phase is not Phase.SHADOW else bench.canary.offline(True)
    bench.now_s += 600.0
    assert bench.canary.tick().verdict is Verdict.RUNNING
    bench.now_s += 1.0
    assert bench.canary.tick().verdict is verdict
    assert "no data for 601 s" in bench.canary.state.reason


def test_rollouts_that_say_nothing_count_for_nothing() -> None:
    bench = make()
    bench.until(Phase.RAMP)
    before = bench.canary.state
    bench.drive(success=None)
    bench.drive(mixed=True, rules=("zone",))
    bench.drive(arm=Arm.PINNED)
    bench.drive(digest="0" * 64, rules=("zone",), severity=Severity.STOP)
    bench.drive(arm=Arm.STABLE, digest=CANDIDATE)
    after = bench.canary.state
    assert (after.candidate, after.stable, after.violation) == (
        before.candidate,
        before.stable,
        before.violation,
    )
    notes = [point.note for point in bench.canary.trace[-5:]]
    assert "aborted without" in notes[0]
    assert "changed on the way" in notes[1]
    assert "chose" in notes[2]
    assert "neither candidate nor stable" in notes[3]
    assert "other adapter" in notes[4]


def test_an_aborted_rollout_with_a_violation_counts_as_both_violated_and_failed() -> None:
    bench = make()
    bench.until(Phase.RAMP)
    bench.drive(success=None, rules=("zone",))
    assert bench.canary.state.candidate == ArmCounts(6, 1, 5)


def test_a_second_report_counts_once_but_its_violation_stays() -> None:
    bench = make()
    bench.until(Phase.RAMP)
    for rules in ((), (), ("zone",), ("zone",), ()):
        bench.drive(rollout_id="same", rules=rules)
    assert bench.canary.state.candidate == ArmCounts(6, 1, 6)
    assert bench.canary.tally.rules[True, "zone"] == 1


def test_promotion_waits_for_an_operator() -> None:
    bench = make(require_operator=True)
    bench.until(Phase.RAMP)
    with pytest.raises(CanaryError) as caught:
        bench.canary.approve("Ann")
    assert caught.value.code is ErrorCode.CANARY_NOT_AWAITED
    while not bench.canary.state.awaiting_operator:
        bench.drive()
    bench.now_s += 1e6
    assert bench.canary.tick().verdict is Verdict.RUNNING
    bench.drive(rules=("zone",))
    assert not bench.canary.state.awaiting_operator  # the evidence is no longer there
    while not bench.canary.state.awaiting_operator:
        bench.drive()
    assert bench.canary.approve("Ann").verdict is Verdict.PROMOTE
    assert "Ann" in bench.canary.state.reason


def test_cancelling_holds_and_a_verdict_is_final() -> None:
    bench = make()
    assert bench.canary.cancel("shift ends").verdict is Verdict.HOLD
    state = bench.canary.state
    bench.canary.offline(True)
    bench.drive(rules=("zone",), severity=Severity.STOP)
    bench.canary.violation(CANDIDATE, Severity.STOP, "zone")
    bench.canary.cancel("again")
    assert bench.canary.state == state


def test_the_candidate_cannot_be_stable() -> None:
    with pytest.raises(CanaryError) as caught:
        Canary(Protocol(), STABLE, STABLE, lambda: 0.0)
    assert caught.value.code is ErrorCode.CANARY_REFUSED


@settings(deadline=None, max_examples=60)
@given(st.lists(EVENTS, max_size=80), st.integers(5, 60))
def test_never_promoted_below_the_rollouts_asked_for(events: list[str], asked: int) -> None:
    bench = make(min_rollouts=asked)
    bench.until(Phase.RAMP)
    for event in [*events, *["good"] * 20]:
        _drive(bench, event)
    state = bench.canary.state
    full = state.candidate.rollouts - 5
    assert state.verdict is not Verdict.PROMOTE or full >= max(asked, 15)


@settings(deadline=None, max_examples=60)
@given(st.lists(EVENTS, max_size=60), st.integers(0, 60), st.booleans())
def test_a_restart_has_the_same_future(events: list[str], at: int, known: bool) -> None:
    other, bench = (make(tsr_reference=0.9 if known else None, require_operator=True) for _ in range(2))
    for each in (other, bench):
        each.until(Phase.REDUCED_SPEED)
    for number, event in enumerate(events):
        if number == at:
            stored = json.loads(json.dumps(bench.canary.to_dict()))
            bench.canary = Canary.from_dict(stored, lambda: bench.now_s)
        _drive(bench, event)
        _drive(other, event)
        assert bench.canary.state == other.canary.state
    assert bench.canary.trace == other.canary.trace
    for each in (bench, other):
        each.now_s += 601.0
    assert bench.canary.tick() == other.canary.tick()


@settings(deadline=None, max_examples=40)
@given(st.permutations(["a", "b", "c", "a", "b", "c", "a"]))
def test_the_order_of_duplicates_changes_nothing(order: list[str]) -> None:
    bench = make()
    bench.until(Phase.RAMP)
    for name in order:
        bench.drive(rollout_id=name, rules=("zone",) if name == "b" else ())
    assert bench.canary.state.candidate == ArmCounts(8, 1, 8)


def test_a_record_of_something_else_is_refused() -> None:
    for data in ({}, {**make().canary.to_dict(), "format": 9}, {**make().canary.to_dict(), "phase": "x"}):
        with pytest.raises(CanaryError) as caught:
            Canary.from_dict(data, lambda: 0.0)
        assert caught.value.code is ErrorCode.CANARY_BAD_RECORD
