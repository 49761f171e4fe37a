"""The vectorised canaries are the machine, rollout by rollout, and keep the errors that were asked for."""

import numpy as np
import pytest
from canary_parts import make

from vlaforget_ros.safety.canary.protocol import Protocol
from vlaforget_ros.safety.canary.simulate import Truth, draw, run, schedule, simulate
from vlaforget_ros.safety.canary.state import ArmCounts, Phase, Verdict


@pytest.mark.parametrize(
    ("reference", "truth"),
    [
        (0.9, Truth(0.05, 0.8)),
        (None, Truth(0.05, 0.8)),
        (None, Truth(0.0, 0.3)),
        (None, Truth(0.0, 0.6, stable_svr=0.05, history=50)),
        (0.9, Truth(0.02, 0.9, stable_svr=0.3)),
        (0.9, Truth(0.0, 0.95, breaks_after=12)),
    ],
)
def test_they_decide_as_the_machine_does(reference: float | None, truth: Truth) -> None:
    changes = {"tsr_reference": reference, "max_rollouts": 60}
    protocol = Protocol.model_validate({**changes, "require_operator": False})
    order = schedule(protocol)
    streams = draw(truth, order, 12, np.random.default_rng(2))
    runs = run(protocol, order, streams)
    for number in range(12):
        violated, failed = (int(count) for count in streams.history[number])
        bench = make(ArmCounts(streams.before, violated, streams.before - failed), **changes)
        bench.until(Phase.REDUCED_SPEED)
        heard = 0
        for t, ours in enumerate(order.candidate):
            state = bench.canary.state
            if state.verdict is not Verdict.RUNNING:
                break
            rules = ("zone",) if streams.violated[number, t] else ()
            bench.drive(bool(ours), not streams.failed[number, t], rules)
            heard += 1
        state = bench.canary.state
        assert (state.verdict, heard, state.stop) == (
            runs.verdict[number],
            runs.total[number],
            runs.stop[number],
        )
        assert state.candidate.rollouts == runs.rollouts[number]


@pytest.mark.parametrize("reference", [0.9, None])
def test_errors_stay_inside_their_bounds(reference: float | None) -> None:
    protocol = Protocol(tsr_reference=reference)
    good = simulate(protocol, Truth(protocol.svr_ok, 0.85), 3000, 1)
    assert good.share(Verdict.ABORT) <= 0.05
    for truth in (Truth(protocol.svr_bad, 1.0), Truth(0.0, 0.7)):
        assert simulate(protocol, truth, 3000, 2).share(Verdict.PROMOTE) <= 0.05


def test_a_stable_that_fails_stops_the_arm() -> None:
    runs = simulate(Protocol(tsr_reference=0.9), Truth(0.0, 0.9, stable_svr=0.5), 200, 3)
    assert np.mean(runs.stop & (runs.verdict == Verdict.HOLD)) > 0.95


def test_the_same_seed_gives_the_same_canaries() -> None:
    first, again = (simulate(Protocol(), Truth(0.05, 0.8), 50, 9) for _ in range(2))
    assert np.array_equal(first.rollouts, again.rollouts)
