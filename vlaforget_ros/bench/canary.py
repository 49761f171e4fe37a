"""How often a canary is wrong and how long it takes, beside rules that people use, on the same simulated rollouts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vlaforget_ros import figures
from vlaforget_ros.attacks.outcomes import percent
from vlaforget_ros.bench.naive_rules import Decided, Peek, Window
from vlaforget_ros.figures import Figure
from vlaforget_ros.safety.canary.protocol import Protocol
from vlaforget_ros.safety.canary.sequential import CanaryTests, wald
from vlaforget_ros.safety.canary.simulate import (
    Runs,
    Schedule,
    Streams,
    Truth,
    draw,
    pair_rollouts,
    run,
    schedule,
)
from vlaforget_ros.safety.canary.state import Verdict
from vlaforget_ros.unlearning.rates import Rate

CANARY, LEARNT, LEARNT_LATER = "canary", "canary_learnt", "canary_learnt_history"
HISTORY = 200
BREAKS_AFTER = 20
_GOOD = ("good_border", "good")
_BAD = ("bad_violations", "bad_success")


@dataclass(frozen=True)
class Cell:
    """One rule on one truth.

    Args:
        rule: canary, or a naive one.
        truth: name of the truth.
        promote: share of PROMOTE with its Wilson interval.
        hold: of HOLD.
        abort: of ABORT.
        stop: of canaries that would stop the arm.
        rollouts: (N,) of the candidate to the verdict.
    """

    rule: str
    truth: str
    promote: Rate
    hold: Rate
    abort: Rate
    stop: Rate
    rollouts: np.ndarray

    def row(self) -> dict[str, Any]:
        """As JSON can hold it."""
        shares = {name: getattr(self, name).value for name in ("promote", "hold", "abort", "stop")}
        return {"rule": self.rule, "truth": self.truth, **shares, "rollouts": float(self.rollouts.mean())}


def truths(protocol: Protocol, reference: float) -> dict[str, Truth]:
    """What is simulated. A bad candidate is at its best in the other respect: the worst case for a wrong promotion."""
    ok, bad = protocol.svr_ok, protocol.svr_bad
    return {
        "good_border": Truth(ok, reference - protocol.tsr_loss_ok, 0.0, reference),
        "good": Truth(ok, reference, 0.0, reference),
        "bad_violations": Truth(bad, 1.0, 0.0, reference),
        "bad_success": Truth(0.0, reference - protocol.tsr_loss_bad, 0.0, reference),
        "breaks_later": Truth(0.0, reference, 0.0, reference, breaks_after=BREAKS_AFTER),
        "stable_fails": Truth(0.0, reference, 3.0 * bad, reference),
    }


def measure(
    protocol: Protocol, reference: float, count: int, seed: int, progress: Callable[[int, int, str], None]
) -> dict[str, Any]:
    """Simulate ``count`` canaries of each truth.

    Args:
        protocol: values of the tests; its reference is replaced.
        reference: stable's success rate, 0..1, known or learnt.
        count: canaries of each truth.
        seed: of the rollouts.
        progress: called with (done, all, truth).
    """
    known = Protocol.model_validate({**protocol.model_dump(), "tsr_reference": reference})
    learnt = known.model_copy(update={"tsr_reference": None})
    order = schedule(known)
    cells: dict[tuple[str, str], Cell] = {}
    asked = truths(known, reference)
    pairs: dict[str, np.ndarray] = {}
    for done, (name, truth) in enumerate(asked.items()):
        progress(done, len(asked), name)
        streams = draw(truth, order, count, np.random.default_rng([seed, done]))
        found: dict[str, Runs | Decided] = {
            CANARY: run(known, order, streams),
            LEARNT: run(learnt, order, streams),
        }
        found[LEARNT_LATER] = run(learnt, order, _with_history(streams, truth, seed))
        pairs[name] = pair_rollouts(known, order, streams)
        found |= _naive(known, order, streams)
        cells |= {(rule, name): _cell(rule, name, runs) for rule, runs in found.items()}
    progress(len(asked), len(asked), "done")
    return figures.document(
        "canary",
        [*_errors(cells), *_lengths(known, cells), *_beside_pair(cells, pairs), *_others(cells)],
        [seed],
        protocol=known.model_dump(mode="json"),
        truths={name: vars(truth) for name, truth in asked.items()},
        rows=[cell.row() for cell in cells.values()],
    )


def _naive(protocol: Protocol, order: Schedule, streams: Streams) -> dict[str, Runs | Decided]:
    ours = order.candidate & order.full_speed
    violated, failed = streams.violated[:, ours], streams.failed[:, ours]
    rules: dict[str, Peek | Window] = {
        "naive": Peek(protocol.alpha),
        "naive_halved": Peek(protocol.alpha / 2.0),
        "window": Window(),
    }
    return {name: rule.decide(protocol, violated, failed) for name, rule in rules.items()}


def _with_history(streams: Streams, truth: Truth, seed: int) -> Streams:
    """The same rollouts after ``HISTORY`` of stable's."""
    rng = np.random.default_rng([seed, HISTORY])
    rates = (truth.stable_svr, 1.0 - truth.stable_tsr)
    history = rng.binomial(HISTORY, rates, (len(streams.violated), 2))
    return Streams(streams.violated, streams.failed, history, HISTORY)


def _cell(rule: str, truth: str, runs: Runs | Decided) -> Cell:
    promote, hold, abort = (
        Rate.of(runs.verdict == verdict) for verdict in (Verdict.PROMOTE, Verdict.HOLD, Verdict.ABORT)
    )
    stop = runs.stop if isinstance(runs, Runs) else np.zeros(len(runs.verdict), bool)
    return Cell(rule, truth, promote, hold, abort, Rate.of(stop), runs.rollouts)


def _errors(cells: Mapping[tuple[str, str], Cell]) -> list[Figure]:
    """Wrong verdicts: the worst of the good truths, and of the bad ones."""
    rules = {
        CANARY: "",
        LEARNT: "learnt_",
        LEARNT_LATER: "learnt_history_",
        "naive": "naive_",
        "naive_halved": "naive_halved_",
        "window": "window_",
    }
    found = []
    for rule, prefix in rules.items():
        aborts = max((cells[rule, name].abort for name in _GOOD), key=lambda rate: rate.value)
        promotes = max((cells[rule, name].promote for name in _BAD), key=lambda rate: rate.value)
        found.append(percent(f"{prefix}false_abort_rate", aborts))
        found.append(percent(f"{prefix}false_promote_rate", promotes))
        found.append(percent(f"{prefix}promote_rate_good", cells[rule, "good"].promote))
    return found


def _lengths(protocol: Protocol, cells: Mapping[tuple[str, str], Cell]) -> list[Figure]:
    """Mean rollouts of the candidate to a verdict over Wald's E[n] of the test that decides, overshoot neglected.

    A bad candidate: the test of that respect, at its bad rate. A good one must be accepted by both: the longer of the
    two tests at its rates. Rollouts at reduced speed, the ramp's and ``min_rollouts`` are in the numerator.
    """
    tests = CanaryTests.of(protocol)
    violations, success = tests.violations, tests.success.rate_test()
    reference = protocol.tsr_reference or 0.0
    theory = {
        "bad_violations": wald(violations, protocol.svr_bad).expected,
        "bad_success": wald(success, success.bad).expected,
        "good": max(wald(violations, protocol.svr_ok).expected, wald(success, 1.0 - reference).expected),
        "good_border": max(wald(violations, protocol.svr_ok).expected, wald(success, success.ok).expected),
    }
    ratios = [_ratio(f"rollouts_{name}_ratio", cells[CANARY, name], theory[name]) for name in theory]
    worst = max(ratios[:3], key=lambda figure: figure.value)
    named = Figure("rollouts_to_verdict_ratio", worst.value, "ratio", worst.n, worst.low, worst.high)
    means = [
        Figure(f"rollouts_{name}", float(cells[CANARY, name].rollouts.mean()), "count", worst.n)
        for name in theory
    ]
    walds = [Figure(f"wald_rollouts_{name}", value, "count") for name, value in theory.items()]
    return [named, *ratios, *means, *walds]


def _beside_pair(cells: Mapping[tuple[str, str], Cell], pairs: Mapping[str, np.ndarray]) -> list[Figure]:
    """The same over the mean of two plain SPRTs side by side, on the same rollouts: Wald has no value for two."""
    means = {name: float(pairs[name].mean()) for name in (*_GOOD, *_BAD)}
    ratios = [
        _ratio(f"rollouts_{name}_pair_ratio", cells[CANARY, name], mean) for name, mean in means.items()
    ]
    return [*ratios, *(Figure(f"pair_rollouts_{n}", m, "count", len(pairs[n])) for n, m in means.items())]


def _ratio(name: str, cell: Cell, theory: float) -> Figure:
    mean, n = float(cell.rollouts.mean()), len(cell.rollouts)
    half = 1.96 * float(cell.rollouts.std()) / math.sqrt(n)
    return Figure(name, mean / theory, "ratio", n, (mean - half) / theory, (mean + half) / theory)


def _others(cells: Mapping[tuple[str, str], Cell]) -> list[Figure]:
    breaks, fails = cells[CANARY, "breaks_later"], cells[CANARY, "stable_fails"]
    return [
        percent("abort_rate_breaks_later", breaks.abort),
        percent("promote_rate_breaks_later", breaks.promote),
        Figure("rollouts_breaks_later", float(breaks.rollouts.mean()), "count", len(breaks.rollouts)),
        percent("stop_rate_stable_fails", fails.stop),
    ]
