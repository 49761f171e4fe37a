"""A whole edit: from a policy and four sets of frames to an adapter, with every decision on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vlaforget_ros.adapters.lora import LoraWeights, combine, compressed
from vlaforget_ros.errors import ErrorCode, UnlearningError
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.unlearning.bank import Bank
from vlaforget_ros.unlearning.data import Earlier, EditData, Split, split
from vlaforget_ros.unlearning.gates import (
    GateResult,
    Gates,
    closed_loop_gates,
    damage_gates,
    forget_gates,
    passed,
)
from vlaforget_ros.unlearning.guard import Guard, coded_memory_errors, peak_mb
from vlaforget_ros.unlearning.journal import Journal
from vlaforget_ros.unlearning.lora import EditAdapter, fold
from vlaforget_ros.unlearning.merging import merge_gate
from vlaforget_ros.unlearning.methods.base import Method
from vlaforget_ros.unlearning.metrics import OfflineEvaluation
from vlaforget_ros.unlearning.network import Entry, Network
from vlaforget_ros.unlearning.parameters import MethodParameters
from vlaforget_ros.unlearning.progress import Progress, ProgressMeter
from vlaforget_ros.unlearning.records import Check, Round
from vlaforget_ros.unlearning.rounds import Runner
from vlaforget_ros.unlearning.workbench import Workbench


@dataclass(frozen=True)
class EditSettings:
    """What of a request the edit itself needs.

    Args:
        method: with its parameters.
        gates: limits.
        seed: of everything random.
        identity: what makes two edits the same edit (request hash, base digest), compared on resume.
    """

    method: Method[Any]
    gates: Gates
    seed: int
    identity: dict[str, str]


@dataclass(frozen=True)
class EditResult:
    """A finished edit.

    Args:
        weights: the adapter, with the parent's delta in it where there was one.
        layers: edited layers.
        components: edited components.
        rounds: every round, kept or not.
        before: measurements of the original policy.
        after: measurements of the edited one.
        gates: verdicts.
        gates_passed: whether none failed.
        remarks: what a reader of the figures must know: sets without held-out episodes, what time did not allow.
        seconds: how long it took (this run only, when resumed).
        peak_mb: largest memory of the process.
    """

    weights: LoraWeights
    layers: tuple[str, ...]
    components: tuple[str, ...]
    rounds: tuple[Round, ...]
    before: Check
    after: Check
    gates: tuple[GateResult, ...]
    gates_passed: bool
    remarks: tuple[str, ...]
    seconds: float
    peak_mb: float

    def row(self) -> dict[str, Any]:
        """As JSON, for the report."""
        return {
            "layers": list(self.layers),
            "components": list(self.components),
            "before": self.before.row(),
            "after": self.after.row(),
            "gates": [gate.row() for gate in self.gates],
            "gates_passed": self.gates_passed,
            "remarks": list(self.remarks),
            "rounds": [done.row() for done in self.rounds],
            "seconds": round(self.seconds, 3),
            "peak_mb": round(self.peak_mb, 1),
            "adapter_bytes": self.weights.bytes,
        }


def edit(
    policy: VlaPolicy,
    data: EditData,
    settings: EditSettings,
    directory: Path,
    guard: Guard,
    progress: Callable[[Progress], None] = lambda _: None,
    resume: bool = False,
    parent: LoraWeights | None = None,
    told: Callable[[str], None] = lambda _: None,
) -> EditResult:
    """Run a method on ``policy``, which is changed in memory and must not be serving anybody.

    Args:
        policy: loaded from the base checkpoint.
        data: the sets.
        settings: parameters, gates, seed.
        directory: journal of finished stages.
        guard: budgets and cancel.
        progress: called after every step.
        resume: go on from finished stages in ``directory``.
        parent: adapter that the edit starts from; it counts as part of the original policy.
        told: what goes on between steps, how far it is behind a colon: of a large policy that takes minutes.

    Raises:
        UnlearningError: 304 when no stage was kept, 305, 306, 307 as in the guard and the training.
    """
    identity = {**settings.identity, **{f"data_{name}": value for name, value in data.digests().items()}}
    journal = Journal(directory, identity, resume)
    meter = ProgressMeter(settings.method.plan(), guard, progress)
    with coded_memory_errors():
        if parent is not None:
            fold(policy.model, parent)
        bench = prepare(policy, data, settings, guard, told)
        before = bench.check()
        journal.log("start", check=before.row(), frames={k: len(v) for k, v in data.sets().items()})
        runner = Runner(bench, settings.gates, journal, meter.step)
        after = settings.method.schedule(runner, before)
        return _result(bench, settings, runner.rounds, before, after, parent)


def prepare(
    policy: VlaPolicy,
    data: EditData,
    settings: EditSettings,
    guard: Guard,
    told: Callable[[str], None] = lambda _: None,
) -> Workbench:
    """Encode the sets and ask the original policy about them: all that stays constant during the edit.

    Args:
        policy: loaded from the base checkpoint.
        data: the sets.
        settings: parameters, gates, seed.
        guard: budgets and cancel.
        told: what goes on where it is no step.
    """
    method, seed = settings.method, settings.seed
    parameters = method.parameters
    policy.model.eval().requires_grad_(False)
    layers, sets = policy.components(), data.sets()
    network = Network(policy.model, parameters.gradient_checkpointing)
    adapter = EditAdapter(policy.model, method.rank, _alpha(method), method.dense)
    banks = {
        name: Bank(name, policy, network, frames, parameters, guard.check, adapter.detached, told)
        for name, frames in sets.items()
    }

    def between(what: str) -> None:
        guard.check()
        told(what)

    rows, evaluation = evaluation_of(policy, data, parameters, settings.gates.tau_retain, seed, between)
    bench = Workbench(
        policy, network, adapter, banks, rows, evaluation, parameters, seed, guard, layers, told
    )
    bench.enter_at(Entry("language", (0,)), limit_mb=0)
    return bench


def evaluation_of(
    policy: VlaPolicy,
    data: EditData,
    parameters: MethodParameters,
    tau_retain: float,
    seed: int,
    between: Callable[[str], None] = lambda _: None,
) -> tuple[Split, OfflineEvaluation]:
    """What an edit trains and is measured on, and the measurement itself; attacks on a finished edit use the same.

    Args:
        policy: the original one, as it is now.
        data: the sets.
        parameters: how much is held out, and how many frames are measured.
        tau_retain: distance up to which a retained action counts as unchanged.
        seed: of the choice of episodes.
        between: called between passes with what is measured; may raise.
    """
    sets = data.sets()
    rows = split(sets, parameters.holdout, seed)
    rows = replace(rows, held={n: _spread(r, parameters.evaluation_frames) for n, r in rows.held.items()})
    # FC is defined on D_f itself; everything else on episodes that no set trains on.
    measured = {**rows.held, "forget": _spread(np.arange(len(data.forget)), parameters.evaluation_frames)}
    chosen = {name: frames.take(measured[name]) for name, frames in sets.items()}
    earlier = [_thinned(part, parameters.evaluation_frames) for part in data.earlier]
    return rows, OfflineEvaluation(policy, chosen, tau_retain, earlier, between)


def _result(
    bench: Workbench,
    settings: EditSettings,
    rounds: list[Round],
    before: Check,
    after: Check,
    parent: LoraWeights | None,
) -> EditResult:
    kept = [done for done in rounds if done.kept]
    if not kept:
        late = _out_of_time(bench, settings.method, rounds)
        raise UnlearningError(
            ErrorCode.UNLEARNING_GATE_FAILED,
            "no stage was kept, so there is nothing to adapt",
            value="; ".join([*late, *(f"{done.name}: {done.reason}" for done in rounds)]),
            remedy="raise budget.seconds, or let the edit have the machine to itself"
            if late
            else "give more steps, counterfactual data or a wider forget selection; see the log",
        )
    weights = bench.adapter.weights(bench.policy.base_digest)
    gates = [
        *forget_gates(settings.gates, after.metrics),
        *damage_gates(settings.gates, after.metrics),
        *closed_loop_gates(settings.gates, {}),
        merge_gate(bench, settings.gates, after.metrics),
    ]
    layers = dict.fromkeys(layer for done in kept for layer in done.layers)
    return EditResult(
        weights=weights if parent is None else compressed(combine([parent, weights])),
        layers=tuple(layers),
        components=tuple(dict.fromkeys(part for done in kept for part in done.components)),
        rounds=tuple(rounds),
        before=before,
        after=after,
        gates=tuple(gates),
        gates_passed=passed(gates),
        remarks=(*_unheld(bench), *_out_of_time(bench, settings.method, rounds), *_short_of_memory(rounds)),
        seconds=bench.guard.elapsed,
        peak_mb=peak_mb(),
    )


def _unheld(bench: Workbench) -> list[str]:
    return [
        f"the {name} set is measured on what it was trained on: none of its episodes could be held out"
        for name in bench.rows.unheld
    ]


def _out_of_time(bench: Workbench, method: Method[Any], rounds: list[Round]) -> list[str]:
    """What the time budget cut off, in words: failed gates are then no verdict on the method."""
    if not bench.guard.out_of_time():
        return []
    found = []
    for stage, steps, most in method.plan():
        done = [r for r in rounds if r.stage == stage]
        found += [f"{r.name} stopped after {r.steps} of {steps} steps" for r in done if not r.complete]
        if not done:
            found.append(f"stage {stage} did not run")
        elif len(done) < most and not (done[-1].kept and done[-1].forgotten):
            found.append(f"stage {stage} ended after round {len(done)} of up to {most}")
    return [f"out of time (budget {bench.guard.seconds:g} s): {what}" for what in found]


def _short_of_memory(rounds: list[Round]) -> list[str]:
    return [
        f"{done.name} was run with passes of at most {done.micro_batch} frames of each set"
        for done in rounds
        if done.micro_batch
    ]


def _alpha(method: Method[Any]) -> int:
    """The LoRA alpha that gives the factors of this rank the scale of the request's rank and alpha."""
    return method.parameters.lora_alpha * method.rank // method.parameters.rank


def _thinned(earlier: Earlier, count: int) -> Earlier:
    return replace(earlier, frames=earlier.frames.take(_spread(np.arange(len(earlier.frames)), count)))


def _spread(rows: np.ndarray, count: int) -> np.ndarray:
    if len(rows) <= count:
        return rows
    return rows[np.linspace(0, len(rows) - 1, count).round().astype(np.int64)]
