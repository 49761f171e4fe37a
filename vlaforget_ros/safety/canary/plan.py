"""What a protocol will take: rollouts and hours to a verdict, chances of each verdict, what it cannot tell apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vlaforget_ros.errors import CanaryError, ErrorCode
from vlaforget_ros.safety.canary.exact import Prediction, predict
from vlaforget_ros.safety.canary.protocol import Protocol
from vlaforget_ros.safety.canary.simulate import Truth, schedule, simulate
from vlaforget_ros.safety.canary.state import Verdict

_BISECTIONS = 14


@dataclass(frozen=True)
class Row:
    """One truth about the candidate and how its canary ends.

    Args:
        truth: in words.
        svr: share of its rollouts with a violation, 0..1.
        tsr: its success rate, 0..1.
        promote: chance of PROMOTE.
        hold: of HOLD.
        abort: of ABORT.
        expected: mean rollouts of the candidate to the verdict.
        late: rollouts by which 95 % of the canaries have their verdict.
        hours: mean time to the verdict, with stable's rollouts and the shadow phase [h].
        late_hours: the same for ``late`` [h].
    """

    truth: str
    svr: float
    tsr: float
    promote: float
    hold: float
    abort: float
    expected: float
    late: int
    hours: float
    late_hours: float


@dataclass(frozen=True)
class Limits:
    """What ``max_rollouts`` can tell apart with a chance of at least 1 - beta, the other respect being at its best.

    Args:
        svr_promoted: largest SVR that is promoted; None where not even 0 is.
        svr_found: smallest SVR that is aborted; None where none is.
        loss_promoted: largest loss of success that is promoted.
        loss_found: smallest loss that is aborted.
    """

    svr_promoted: float | None
    svr_found: float | None
    loss_promoted: float | None
    loss_found: float | None


def truths(protocol: Protocol, reference: float) -> list[tuple[str, float, float]]:
    """What is asked about: (words, svr, tsr)."""
    ok, bad, lost, gone = protocol.svr_ok, protocol.svr_bad, protocol.tsr_loss_ok, protocol.tsr_loss_bad
    asked = [
        ("no violations, no loss", 0.0, 0.0),
        ("svr_ok, no loss", ok, 0.0),
        ("svr_ok and tsr_loss_ok", ok, lost),
        ("SVR in between", (ok + bad) / 2.0, 0.0),
        ("svr_bad", bad, 0.0),
        ("twice svr_bad", min(1.0, 2.0 * bad), 0.0),
        ("loss in between", ok, (lost + gone) / 2.0),
        ("tsr_loss_bad", ok, gone),
    ]
    return [(words, svr, max(0.0, reference - loss)) for words, svr, loss in asked]


def plan(protocol: Protocol, reference: float, minutes: float) -> list[Row]:
    """The table, computed exactly, as if ``reference`` were known from the start.

    Args:
        protocol: with a ramp.
        reference: stable's success rate, 0..1.
        minutes: of one rollout with its reset [min].

    Raises:
        CanaryError: 501 without a ramp, or for a reference that the protocol cannot have.
    """
    known = _known(protocol, reference)
    rows = []
    for words, svr, tsr in truths(protocol, reference):
        found = predict(known, svr, tsr)
        total = found.promote + found.hold + found.abort
        late, hours = found.quantile(0.95), _hours(known, minutes)
        times = float(total @ hours), float(hours[late])
        rows.append(Row(words, svr, tsr, *found.chances(), found.expected(), late, *times))
    return rows


def plan_learnt(
    protocol: Protocol, reference: float, minutes: float, history: int, count: int, seed: int
) -> list[Row]:
    """The table with a reference that is learnt from stable's rollouts, by simulation.

    Args:
        protocol: with a ramp; its ``tsr_reference`` is not used.
        reference: stable's true success rate, 0..1.
        minutes: of one rollout with its reset [min].
        history: stable's rollouts before the canary.
        count: canaries of each truth.
        seed: of the simulation.
    """
    learnt = protocol.model_copy(update={"tsr_reference": None})
    rows = []
    for words, svr, tsr in truths(protocol, reference):
        runs = simulate(learnt, Truth(svr, tsr, 0.0, reference, history), count, seed)
        chances = runs.share(Verdict.PROMOTE), runs.share(Verdict.HOLD), runs.share(Verdict.ABORT)
        hours = (_shadow(learnt) + runs.total) * minutes / 60.0
        late = int(np.quantile(runs.rollouts, 0.95, method="inverted_cdf"))
        times = float(hours.mean()), float(np.quantile(hours, 0.95, method="inverted_cdf"))
        rows.append(Row(words, svr, tsr, *chances, float(runs.rollouts.mean()), late, *times))
    return rows


def limits(protocol: Protocol, reference: float) -> Limits:
    """What the protocol cannot tell apart, for a known reference."""
    known, power = _known(protocol, reference), 1.0 - protocol.beta

    def violating(svr: float) -> Prediction:
        return predict(known, svr, 1.0)

    def losing(loss: float) -> Prediction:
        return predict(known, 0.0, reference - loss)

    return Limits(
        _last(lambda svr: violating(svr).chances()[0] >= power, 1.0),
        _first(lambda svr: violating(svr).chances()[2] >= power, 1.0),
        _last(lambda loss: losing(loss).chances()[0] >= power, reference),
        _first(lambda loss: losing(loss).chances()[2] >= power, reference),
    )


def _known(protocol: Protocol, reference: float) -> Protocol:
    if "ramp" not in protocol.phases:
        raise CanaryError(
            ErrorCode.CANARY_BAD_PROTOCOL,
            "there is nothing to plan: without a ramp nothing is promoted",
            value=list(protocol.phases),
            remedy="add ramp to phases",
        )
    return Protocol.model_validate({**protocol.model_dump(), "tsr_reference": reference})


def _hours(protocol: Protocol, minutes: float) -> np.ndarray:
    """(N,) time until the candidate has had 0, 1, 2, ... rollouts [h]."""
    ends = np.flatnonzero(schedule(protocol).candidate) + 1
    return (_shadow(protocol) + np.concatenate([[0], ends])) * minutes / 60.0


def _shadow(protocol: Protocol) -> int:
    """Rollouts of the shadow phase."""
    return protocol.shadow.rollouts if "shadow" in protocol.phases else 0


def _last(holds: Callable[[float], bool], top: float) -> float | None:
    """Largest place in 0..top up to which it holds; None where it does not at 0."""
    if not holds(0.0):
        return None
    inside, outside = 0.0, top
    for _ in range(_BISECTIONS):
        middle = (inside + outside) / 2.0
        inside, outside = (middle, outside) if holds(middle) else (inside, middle)
    return inside


def _first(holds: Callable[[float], bool], top: float) -> float | None:
    """Smallest place in 0..top from which it holds; None where it does not at ``top``."""
    if not holds(top):
        return None
    outside, inside = 0.0, top
    for _ in range(_BISECTIONS):
        middle = (inside + outside) / 2.0
        outside, inside = (outside, middle) if holds(middle) else (middle, inside)
    return inside
