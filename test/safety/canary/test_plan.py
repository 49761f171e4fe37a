"""The plan: what it says of the default protocol is what was computed, and its limits are where the chances turn."""

import pytest

from vlaforget_ros.errors import CanaryError
from vlaforget_ros.safety.canary.exact import predict
from vlaforget_ros.safety.canary.plan import limits, plan, plan_learnt
from vlaforget_ros.safety.canary.protocol import Protocol
from vlaforget_ros.safety.canary.simulate import schedule


def test_rows_have_the_chances_and_the_hours_of_both_arms() -> None:
    protocol = Protocol()
    rows = {row.truth: row for row in plan(protocol, 0.9, 6.0)}
    known = Protocol(tsr_reference=0.9)
    bad, found = rows["svr_bad"], predict(known, 0.1, 0.9)
    assert (bad.promote, bad.hold, bad.abort) == pytest.approx(found.chances())
    assert bad.expected == pytest.approx(found.expected())
    assert bad.late == found.quantile(0.95)
    # All 205 rollouts of the candidate: every rollout of the schedule, and 5 in the shadow, 10 an hour.
    border = rows["loss in between"]
    assert border.late == 205
    assert border.late_hours == pytest.approx((len(schedule(protocol).candidate) + 5) / 10)
    assert bad.hours < bad.late_hours


def test_limits_are_where_the_chances_turn() -> None:
    known = Protocol(tsr_reference=0.9)
    found = limits(Protocol(), 0.9)
    assert found.svr_promoted is not None
    assert found.svr_found is not None
    assert known.svr_ok <= found.svr_promoted < found.svr_found <= known.svr_bad + 0.01
    assert predict(known, found.svr_promoted - 0.001, 1.0).chances()[0] >= 0.95
    assert predict(known, found.svr_promoted + 0.001, 1.0).chances()[0] < 0.95
    assert predict(known, found.svr_found + 0.001, 1.0).chances()[2] >= 0.95
    assert found.loss_found is not None


def test_too_few_rollouts_promote_nothing() -> None:
    found = limits(Protocol(max_rollouts=20), 0.9)
    assert found.svr_promoted is None
    assert found.loss_promoted is None


def test_a_learnt_reference_takes_longer_and_history_helps() -> None:
    alone, later = (
        {row.truth: row for row in plan_learnt(Protocol(), 0.9, 1.0, history, 200, 0)} for history in (0, 300)
    )
    known = {row.truth: row for row in plan(Protocol(), 0.9, 1.0)}
    border, lost = "svr_ok and tsr_loss_ok", "tsr_loss_bad"
    assert alone[border].promote + 0.1 < later[border].promote < known[border].promote
    assert alone[lost].abort + 0.1 < later[lost].abort < known[lost].abort


def test_a_reference_below_the_loss_and_a_protocol_without_ramp_are_refused() -> None:
    with pytest.raises(CanaryError, match="without a ramp"):
        plan(Protocol(phases=("shadow",)), 0.9, 1.0)
    with pytest.raises(CanaryError, match="tsr_loss_bad"):
        plan(Protocol(), 0.1, 1.0)
