"""Rounds: train some layers, measure, keep or roll back, store; the steps of which every method's schedule is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, nn

from vlaforget_ros.unlearning.checkpoints import Checkpoints
from vlaforget_ros.unlearning.gates import Gates, damage_gates, forget_gates, passed
from vlaforget_ros.unlearning.journal import Journal
from vlaforget_ros.unlearning.parameters import STAGES
from vlaforget_ros.unlearning.pcgrad import Surgery
from vlaforget_ros.unlearning.portions import training_passes
from vlaforget_ros.unlearning.records import Check, Round, curve_point, thin_curve
from vlaforget_ros.unlearning.scores import LayerScore
from vlaforget_ros.unlearning.steps import Step
from vlaforget_ros.unlearning.training import Loop, StepLog
from vlaforget_ros.unlearning.workbench import Workbench

StepListener = Callable[[str, int, StepLog], None]
Judge = Callable[[Check, Check, Gates], tuple[bool, str]]


def always(before: Check, after: Check, gates: Gates) -> tuple[bool, str]:
    """Keep whatever came out: the gates at the end of the edit judge it."""
    return True, f"kept: FC {before.metrics.fc:.1f} → {after.metrics.fc:.1f} %, RAD {after.metrics.rad:.3f}"


@dataclass(frozen=True)
class RoundPlan:
    """One round.

    Args:
        stage: its name in logs and files.
        number: from 1.
        layers: what is edited.
        steps: optimiser steps; 0 where the round only has a ``finish``.
        gradients: of one step.
        scores: of the layers, for the report.
        judge: whether it is kept.
        masks: of the factors, made when these are there; None: no mask.
        start: called on the fresh factors, before the first step.
        finish: called after the last step, before the round is measured.
        state: numbers that the method remembers between steps.
        set_state: gives them back.
    """

    stage: str
    number: int
    layers: Sequence[str]
    steps: int
    gradients: Callable[[Step], Surgery]
    scores: Sequence[LayerScore] = ()
    judge: Judge = always
    masks: Callable[[Workbench, Sequence[str]], list[Tensor] | None] = lambda bench, modules: None
    start: Callable[[Workbench, Sequence[str]], None] = lambda bench, modules: None
    finish: Callable[[Workbench, Sequence[str]], None] = lambda bench, modules: None
    state: Callable[[], dict[str, float]] = dict
    set_state: Callable[[dict[str, float]], None] = lambda state: None

    @property
    def name(self) -> str:
        """File name in the journal."""
        return f"{self.stage}-{self.number}"

    def seed(self, base: int) -> tuple[int, int, int]:
        """Of everything random in it."""
        place = STAGES.index(self.stage) if self.stage in STAGES else len(STAGES) + sum(self.stage.encode())
        return base, place, self.number


@dataclass
class Runner:
    """Runs rounds, or loads them where the journal has them.

    Args:
        bench: the policy under edit.
        gates: decide about keeping.
        journal: where finished rounds are stored.
        listener: told about every step.
        rounds: all that were run or loaded.
    """

    bench: Workbench
    gates: Gates
    journal: Journal
    listener: StepListener
    rounds: list[Round] = field(default_factory=list)

    def finished(self, stage: str, number: int) -> Round | None:
        """A round that an earlier process finished; the adapter is then as it left it."""
        stored = self.journal.finished(f"{stage}-{number}")
        if stored is None:
            return None
        self.bench.adapter.load(stored[1])
        self.rounds.append(Round(**stored[0]))
        return self.rounds[-1]

    def run(self, plan: RoundPlan, before: Check) -> Round:
        """Run a round.

        Args:
            plan: what to do.
            before: what held before it.
        """
        bench = self.bench
        scores = [score.row() for score in plan.scores]
        self.journal.log(
            "choice", stage=plan.stage, round=plan.number, layers=list(plan.layers), scores=scores
        )
        cached = bench.enter_at(bench.network.entry(plan.layers))
        modules = bench.modules(plan.layers)
        factors = self._factors(modules, plan)
        plan.start(bench, modules)
        checkpoints = Checkpoints(self.journal, plan.name, factors, plan.state, plan.set_state)
        micro_batch = self._train(plan, modules, factors, checkpoints) if plan.steps else 0
        plan.finish(bench, modules)
        after = bench.check()
        kept, reason = plan.judge(before, after, self.gates)
        curve = checkpoints.curve
        done = Round(
            stage=plan.stage,
            round=plan.number,
            layers=list(plan.layers),
            components=bench.components(plan.layers),
            kept=kept,
            reason=reason,
            forgotten=passed(forget_gates(self.gates, after.metrics)),
            after=after.row(),
            holds=(after if kept else before).row(),
            gates=[gate.row() for gate in damage_gates(self.gates, after.metrics)],
            scores=scores,
            curve=thin_curve(curve),
            cached_mb=cached / 1e6,
            steps=curve[-1]["step"] if curve else 0,
            complete=not plan.steps or bool(curve and curve[-1]["step"] == plan.steps),
            micro_batch=micro_batch,
        )
        bench.guard.require_weights()
        self.journal.log("round", **done.summary())
        self.journal.finish(done.name, done.row(), bench.adapter.tensors())
        self.rounds.append(done)
        return done

    def _train(
        self,
        plan: RoundPlan,
        modules: Sequence[str],
        factors: Sequence[nn.Parameter],
        checkpoints: Checkpoints,
    ) -> int:
        """The steps of a round; returns the most frames of a set in one pass at the end, 0: whole batches."""
        bench, parameters = self.bench, self.bench.parameters
        frames = sum(getattr(parameters, f"batch_{name}") for name in bench.rows.train)
        entry = bench.network.entry(plan.layers)
        most, again = training_passes(bench.policy, entry, frames, parameters.gradient_checkpointing)

        def listen(log: StepLog) -> None:
            checkpoints.curve.append(curve_point(log))
            self.listener(plan.stage, plan.number, log)

        loop = Loop(
            bench.banks,
            bench.rows.train,
            factors,
            plan.masks(bench, modules),
            plan.gradients,
            parameters,
            plan.steps,
            plan.seed(bench.seed),
            bench.guard,
            checkpoints,
            parameters.micro_batch or most,
        )
        with bench.network.recomputing(again):
            return loop.run(listen)

    def _factors(self, modules: Sequence[str], plan: RoundPlan) -> list[Any]:
        adapter = self.bench.adapter
        absent = [module for module in modules if module not in adapter.modules]
        if absent:
            seed = np.random.SeedSequence(plan.seed(self.bench.seed)).generate_state(1)[0]
            adapter.add(absent, seed=int(seed))
        return adapter.train(modules)
