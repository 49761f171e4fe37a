"""The stages of an edit: choose layers, train their adapter, evaluate, keep or roll back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from vlaforget_ros.unlearning.gates import GateResult, Gates, damage_gates, forget_gates, passed
from vlaforget_ros.unlearning.journal import Journal
from vlaforget_ros.unlearning.parameters import STAGES, StageName
from vlaforget_ros.unlearning.records import Check, Round, curve_point, thin_curve
from vlaforget_ros.unlearning.scores import LayerScore
from vlaforget_ros.unlearning.training import StepLog, train
from vlaforget_ros.unlearning.workbench import Workbench

StepListener = Callable[[str, int, StepLog], None]


def run_stage(
    bench: Workbench, stage: StageName, before: Check, gates: Gates, journal: Journal, listener: StepListener
) -> tuple[list[Round], Check]:
    """One stage: its rounds, and what holds afterwards.

    The visual and the projector stage have one round. The language stage starts with the top k layers and
    adds one in each further round, until the forget gates hold or ``max_rounds`` is reached. Rounds that the
    journal already holds are loaded instead of run. A round depends on nothing but its number, the seed and
    what was kept before, so an edit that was interrupted ends with the same bits as one that was not.

    Args:
        bench: the policy under edit.
        stage: which.
        before: what held before it.
        gates: decide about keeping and about further rounds.
        journal: where finished rounds are stored.
        listener: told about every step.
    """
    rounds: list[Round] = []
    ranked: list[LayerScore] = []
    kept = bench.adapter.tensors()
    for number in range(1, bench.parameters.rounds(stage) + 1):
        stored = journal.finished(f"{stage}-{number}")
        if stored is not None:
            done = Round(**stored[0])
            bench.adapter.load(stored[1])
            ranked = [LayerScore(**row) for row in done.scores]
        elif bench.guard.out_of_time():
            break
        else:
            ranked = ranked or bench.rank(stage)
            done = _run_round(bench, stage, number, ranked, before, gates, journal, listener)
        rounds.append(done)
        before = Check.parse(done.holds)
        kept = bench.adapter.tensors() if done.kept else kept
        if done.forgotten and done.kept:
            break
    # A round that failed is carried on from (damage often heals in the next one), but it does not outlive its stage.
    bench.adapter.load(kept)
    return rounds, before


def _run_round(
    bench: Workbench,
    stage: StageName,
    number: int,
    ranked: list[LayerScore],
    before: Check,
    gates: Gates,
    journal: Journal,
    listener: StepListener,
) -> Round:
    parameters = bench.parameters
    chosen = [s.layer for s in ranked[: parameters.top_k(stage) + number - 1]]
    scores = [s.row() for s in ranked]
    journal.log("choice", stage=stage, round=number, layers=chosen, scores=scores)
    cached = bench.enter_at(bench.network.entry(chosen))
    curve: list[dict[str, Any]] = []

    def listen(log: StepLog) -> None:
        curve.append(curve_point(log))
        listener(stage, number, log)

    steps = parameters.steps(stage)
    seed = (bench.seed, STAGES.index(stage), number)
    factors = _factors(bench, stage, chosen, seed)
    train(bench.banks, bench.rows.train, factors, parameters, steps, seed, bench.guard, listen)
    after = bench.check()
    kept, reason, damage = judge(before, after, gates, parameters.min_gain)
    done = Round(
        stage=stage,
        round=number,
        layers=chosen,
        kept=kept,
        reason=reason,
        forgotten=passed(forget_gates(gates, after.metrics)),
        after=after.row(),
        holds=(after if kept else before).row(),
        gates=[gate.row() for gate in damage],
        scores=scores,
        curve=thin_curve(curve),
        cached_mb=cached / 1e6,
        complete=len(curve) == steps,
    )
    journal.log("round", **done.summary())
    journal.finish(done.name, done.row(), bench.adapter.tensors())
    return done


def judge(before: Check, after: Check, gates: Gates, min_gain: float) -> tuple[bool, str, list[GateResult]]:
    """Whether a round is kept: no damage, progress in forgetting, no step away from the right motions.

    Progress is one of two: undesired motions are less likely by ``min_gain`` of what they were, or FC is up by that
    share of all frames. A round that repairs may put other motions on top while the mass of the undesired ones,
    small already, wavers.

    Returns:
        verdict, reason, damage gates.
    """
    damage = damage_gates(gates, after.metrics)
    if not passed(damage):
        failed = ", ".join(
            f"{g.name}: {g.value:.3g}, limit {g.limit:g}" for g in damage if g.verdict == "failed"
        )
        return False, f"rolled back: damage ({failed})", damage
    gain = 100.0 * (before.undesired - after.undesired) / max(before.undesired, 1e-12)
    progress = (
        f"undesired motions {gain:.1f} % less likely, FC {before.metrics.fc:.1f} → {after.metrics.fc:.1f} %"
    )
    if gain < 100.0 * min_gain and after.metrics.fc - before.metrics.fc < max(100.0 * min_gain, 1e-9):
        return False, f"rolled back: {progress}", damage
    if _is_worse(before.counterfactual, after.counterfactual):
        return False, "rolled back: further away from the counterfactual actions", damage
    return True, f"kept: {progress}", damage


def _is_worse(before: float | None, after: float | None) -> bool:
    return before is not None and after is not None and after > before


def _factors(bench: Workbench, stage: StageName, chosen: list[str], seed: tuple[int, ...]) -> list[Any]:
    modules = bench.modules(stage, chosen)
    absent = [module for module in modules if module not in bench.adapter.modules]
    if absent:
        bench.adapter.add(absent, seed=int(np.random.SeedSequence(seed).generate_state(1)[0]))
    return bench.adapter.train(modules)
