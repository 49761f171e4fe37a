"""The exact calculation: a protocol small enough to do by hand, and 4,000 simulated canaries of the default one."""

import math

import pytest

from vlaforget_ros.safety.canary.exact import predict
from vlaforget_ros.safety.canary.protocol import Protocol
from vlaforget_ros.safety.canary.simulate import Truth, simulate
from vlaforget_ros.safety.canary.state import Verdict

KNOWN = Protocol(tsr_reference=0.9)


def test_a_small_protocol_by_hand() -> None:
    # One clean success decides for, one violation against: log(0.9 / 0.1) = 2.2 of log 2 and log 4.
    small = Protocol.model_validate(
        {
            "phases": ["ramp"],
            "ramp": {"weights": [1.0], "rollouts": 1},
            "svr_ok": 0.1,
            "svr_bad": 0.9,
            "tsr_reference": 0.95,
            "tsr_loss_ok": 0.05,
            "tsr_loss_bad": 0.85,
            "alpha": 0.499,
            "beta": 0.499,
            "min_rollouts": 1,
            "max_rollouts": 2,
        }
    )
    found = predict(small, svr=0.3, tsr=0.6)
    assert found.chances() == (pytest.approx(0.7 * 0.6), 0.0, pytest.approx(1 - 0.7 * 0.6))
    assert found.expected() == pytest.approx(1.0)
    assert found.quantile(0.95) == 1


@pytest.mark.parametrize(("svr", "tsr"), [(0.02, 0.85), (0.1, 0.9), (0.05, 0.8), (0.0, 1.0), (1.0, 0.0)])
def test_the_chances_are_those_of_simulated_canaries(svr: float, tsr: float) -> None:
    found, runs = predict(KNOWN, svr, tsr), simulate(KNOWN, Truth(svr, tsr), 4000, 5)
    assert sum(found.chances()) == pytest.approx(1.0)
    for chance, verdict in zip(found.chances(), (Verdict.PROMOTE, Verdict.HOLD, Verdict.ABORT), strict=True):
        assert runs.share(verdict) == pytest.approx(
            chance, abs=4 * math.sqrt(chance * (1 - chance) / 4000) + 1e-9
        )
    assert runs.rollouts.mean() == pytest.approx(found.expected(), rel=0.05)


@pytest.mark.parametrize(
    "changes", [{}, {"alpha": 0.01, "beta": 0.1}, {"svr_ok": 0.1, "svr_bad": 0.2, "max_rollouts": 400}]
)
def test_the_errors_are_inside_what_was_asked_for(changes: dict[str, float]) -> None:
    asked = Protocol.model_validate({**KNOWN.model_dump(), **changes})
    good = predict(asked, asked.svr_ok, 0.9 - asked.tsr_loss_ok)
    assert good.chances()[2] <= asked.alpha
    for svr, tsr in ((asked.svr_bad, 1.0), (0.0, 0.9 - asked.tsr_loss_bad)):
        assert predict(asked, svr, tsr).chances()[0] <= asked.beta


def test_without_a_ramp_or_a_reference_there_is_nothing_to_predict() -> None:
    with pytest.raises(ValueError, match="ramp"):
        predict(Protocol(phases=("offline",), tsr_reference=0.9), 0.0, 1.0)
    with pytest.raises(ValueError, match="not known"):
        predict(Protocol(), 0.0, 1.0)
