"""The record of a canary: one JSON document, from which its report is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from scipy.stats import binomtest

from vlaforget_ros import figures
from vlaforget_ros.safety.canary.machine import Canary
from vlaforget_ros.safety.canary.state import ArmCounts, Phase, Verdict
from vlaforget_ros.safety.rates import sequence_interval

FORMAT = 1
_SENTENCES = {
    Verdict.RUNNING: "The canary is running: {reason}.",
    Verdict.PROMOTE: "The candidate may become stable: {reason}.",
    Verdict.HOLD: "Stable stays, nothing is said against the candidate: {reason}.",
    Verdict.ABORT: "The candidate was aborted: {reason}.",
}


def document(
    canary: Canary,
    *,
    created: str,
    canary_id: str = "",
    names: tuple[str, str] = ("", ""),
    provenance: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A canary as JSON, at any time of its life.

    Args:
        canary: running or ended.
        created: time of the record, ISO 8601.
        canary_id: names the run.
        names: of candidate and stable, "" where they have none.
        provenance: what else a reader needs: hardware, cell, commit; commit and versions where not given.
    """
    state, (candidate, stable) = canary.state, canary.adapters
    return {
        "format": FORMAT,
        "canary_id": canary_id,
        "created": created,
        "verdict": state.verdict.name,
        "sentence": _SENTENCES[state.verdict].format(reason=state.reason),
        "reason": state.reason,
        "stop": state.stop,
        "awaiting_operator": state.awaiting_operator,
        "phase": state.phase.name,
        "candidate": {"name": names[0], "digest": candidate},
        "stable": {"name": names[1], "digest": stable},
        "tests": {
            "violation": asdict(state.violation),
            "success": asdict(state.success),
            "stable_violation": asdict(state.stable_violation),
        },
        "rates": _rates(canary),
        "rules": _rules(canary),
        "shadow": canary.shadow(),
        "protocol": canary.protocol.model_dump(mode="json"),
        "seed": canary.protocol.seed,
        "provenance": dict(provenance or {"commit": figures.commit(), "versions": figures.versions()}),
        "trace": [asdict(point) for point in canary.trace],
        "not_proven": not_proven(canary),
    }


def not_proven(canary: Canary) -> list[str]:
    """What no figure of a canary shows."""
    protocol, state = canary.protocol, canary.state
    found = [
        "That the arm is safe: the rules see what the monitor sees, and it is no safety-rated device.",
        "Anything about tasks, scenes and people that these rollouts did not meet: another mix is another rate.",
        f"That the candidate never violates: a promotion says that one with an SVR of {protocol.svr_bad:g} or more is "
        f"promoted with a chance of at most {protocol.beta:g}.",
    ]
    if protocol.tsr_reference is not None:
        found.append(f"That stable succeeds in {protocol.tsr_reference:g}: the protocol says so.")
    else:
        found.append("That stable's success rate stayed what it was while the candidate drove.")
    skipped = [phase.name.lower() for phase in Phase if phase.name.lower() not in protocol.phases]
    if skipped:
        found.append(f"What {', '.join(skipped)} would have shown: the protocol leaves it out.")
    if state.verdict is Verdict.HOLD:
        found.append("That the candidate is bad: HOLD means that it was not shown either way.")
    return found


def _rates(canary: Canary) -> list[dict[str, Any]]:
    tally = canary.tally
    rows = (
        ("candidate, full speed", tally.full),
        ("candidate, reduced speed", tally.slow),
        ("stable", tally.stable),
        ("stable, before", canary.history),
    )
    return [
        {
            "who": who,
            "what": what,
            "hits": hits,
            "rollouts": counts.rollouts,
            "exact": _exact(hits, counts.rollouts),
            "sequential": _sequential(hits, counts.rollouts),
        }
        for who, counts in rows
        for what, hits in (("SVR", counts.violated), ("TSR", counts.succeeded))
        if counts != ArmCounts()
    ]


def _exact(hits: int, rollouts: int) -> tuple[float, float]:
    """Clopper-Pearson, 95 %: right for a number of rollouts that was fixed before."""
    interval = binomtest(hits, rollouts).proportion_ci(confidence_level=0.95, method="exact")
    return float(interval.low), float(interval.high)


def _sequential(hits: int, rollouts: int) -> tuple[float, float]:
    """Confidence sequence, 95 %: right at whatever number of rollouts the canary ended."""
    interval = sequence_interval(hits, rollouts)
    return interval.low, interval.high


def _rules(canary: Canary) -> list[dict[str, Any]]:
    counts = canary.tally.rules
    names = sorted({rule for (_, rule), count in counts.items() if count})
    return [{"rule": name, "candidate": counts[True, name], "stable": counts[False, name]} for name in names]
