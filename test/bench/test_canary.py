"""The benchmark of the canary in small, and the naive rules by hand."""

import json

import numpy as np
import pytest

from vlaforget_ros.bench.canary import measure
from vlaforget_ros.bench.naive_rules import Peek, Window
from vlaforget_ros.safety.canary.protocol import Protocol
from vlaforget_ros.safety.canary.sequential import CanaryTests
from vlaforget_ros.safety.canary.simulate import Streams, pair_rollouts, schedule
from vlaforget_ros.safety.canary.state import Verdict

KNOWN = Protocol(tsr_reference=0.9)


def _stream(*places: int, count: int = 60) -> np.ndarray:
    """One test whose rollouts at these places have the event."""
    return np.isin(np.arange(count), places)[None, :]


def test_two_of_the_last_ten() -> None:
    none = _stream()
    near, far = _stream(3, 12), _stream(3, 13)
    assert Window().decide(KNOWN, near, none).verdict[0] == Verdict.ABORT
    assert Window().decide(KNOWN, near, none).rollouts[0] == 13
    assert Window().decide(KNOWN, far, none).verdict[0] == Verdict.PROMOTE
    assert (
        Window().decide(KNOWN, none, _stream(*range(0, 50, 4))).verdict[0] == Verdict.HOLD
    )  # 13 of 50 failed


def test_a_p_value_looked_at_again_stops_at_the_first_violation() -> None:
    # P(1 or more of 2) = 1 - 0.98^2 = 0.0396 is "significant", of 3 it is 0.0588.
    none = _stream()
    assert Peek(0.05).decide(KNOWN, _stream(1), none).rollouts[0] == 2
    late = Peek(0.05).decide(KNOWN, _stream(2), none)
    assert late.verdict[0] == Verdict.PROMOTE
    # 46 rollouts with one violation: P(1 or fewer of 46 at 0.1) = 0.048, of 45 it is 0.052.
    assert late.rollouts[0] == 46


@pytest.mark.timeout(120)
def test_errors_are_inside_their_bounds_and_naive_ones_are_not() -> None:
    heard: list[str] = []
    document = measure(Protocol(), 0.9, 1500, 3, lambda done, total, what: heard.append(f"{done}/{total}"))
    values = {figure["name"]: figure["value"] for figure in document["figures"]}
    for prefix in ("", "learnt_", "learnt_history_"):
        assert values[f"{prefix}false_abort_rate"] <= 5.0
        assert values[f"{prefix}false_promote_rate"] <= 5.0 + 1.0  # 1,500 canaries: two standard errors
    assert values["naive_false_abort_rate"] > 15.0
    assert values["rollouts_to_verdict_ratio"] <= 1.3
    # At both borders both tests take their time; the canary takes little more than the two of them.
    assert values["rollouts_good_border_pair_ratio"] <= 1.3
    # Violations at reduced speed may abort a bad one before that.
    for name in ("good_border", "good"):
        assert values[f"rollouts_{name}"] >= values[f"pair_rollouts_{name}"]
    assert values["stop_rate_stable_fails"] > 95.0
    assert heard[-1] == "6/6"
    assert len(document["rows"]) == 6 * 6
    json.dumps(document)


def test_two_tests_side_by_side_by_hand() -> None:
    order = schedule(KNOWN)
    ours = np.flatnonzero(order.candidate & order.full_speed)
    tests = CanaryTests.of(KNOWN)
    rates = (tests.violations, tests.success.rate_test())
    clean = [int(np.ceil(test.accept_threshold / test.down)) for test in rates]
    bad = [int(np.ceil(test.abort_threshold / test.up)) for test in rates]
    violated, failed = (np.zeros((3, len(order.candidate)), bool) for _ in range(2))
    violated[1, ours] = True
    failed[2, ours] = True
    streams = Streams(violated, failed, np.zeros((3, 2), int), 0)
    assert pair_rollouts(KNOWN, order, streams).tolist() == [max(clean), bad[0], bad[1]]
