"""All attacks on one finished edit, and the document that comes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlaforget_ros import figures
from vlaforget_ros.adapters.lora import LoraWeights
from vlaforget_ros.adapters.peft_format import write_peft
from vlaforget_ros.attacks import membership, quantise, relearn, successive, variants
from vlaforget_ros.attacks.findings import Findings, Report, quiet
from vlaforget_ros.attacks.subject import Subject, open_subject
from vlaforget_ros.attacks.trials import Trials, TrialSettings, original_spec
from vlaforget_ros.cell.rollouts import PolicySpec
from vlaforget_ros.errors import ErrorCode, UnlearningError, did_you_mean
from vlaforget_ros.figures import Figure
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.unlearning.request import Request

EVIDENCE = "attacks"
"""The kind under which the document is kept beside an adapter's manifest."""

NOT_PROVEN = (
    "An attack that brings nothing back shows that this attack, with these settings, did not on what was measured.",
    "Other attacks are not excluded: more data, more steps, full fine-tuning, other words.",
    "Offline figures are about recorded frames, not about what the arm does; closed loop is the simulated cell alone.",
    "Membership inference at chance level does not show that the recordings left no trace in the weights.",
)


@dataclass(frozen=True)
class AttackSettings:
    """What is attacked and how.

    Args:
        request: that the edit was made from.
        adapter: the edit.
        out: working folder.
        kinds: which attacks, of :data:`KINDS`.
        store: folder of the adapter store, for the request's ``start_from``.
        reference: checkpoint folder of a policy that never saw the behaviour, or None.
        trials: closed-loop episodes of a scenario, or None: offline figures alone.
        points: steps at which relearning is looked at.
        seed: of the attacker's training.
        links: further requests of the chain, after the edit's own.
    """

    request: Request
    adapter: LoraWeights
    out: Path
    kinds: Sequence[str] = ("quantisation", "relearning", "variants", "membership")
    store: Path | None = None
    reference: Path | None = None
    trials: TrialSettings | None = None
    points: tuple[int, ...] = relearn.POINTS
    seed: int = 0
    links: tuple[successive.Link, ...] = ()


@dataclass
class _Bench:
    """What attacks share."""

    settings: AttackSettings
    subject: Subject
    reference: VlaPolicy | None
    trials: Trials | None
    report: Report


def check_kinds(kinds: Sequence[str]) -> list[str]:
    """The kinds, each once, in their order. Raises UnlearningError 300 for an unknown one, or for none."""
    for kind in kinds or ("",):
        if kind not in KINDS:
            raise UnlearningError(
                ErrorCode.UNLEARNING_BAD_REQUEST,
                "no such attack",
                value=kind,
                limit=", ".join(KINDS),
                remedy=did_you_mean(kind, KINDS),
            )
    return [kind for kind in KINDS if kind in kinds]


def run(settings: AttackSettings, report: Report = quiet) -> dict[str, Any]:
    """Carry out the attacks.

    Args:
        settings: what is attacked and how.
        report: called with (what, done, all).

    Returns:
        a result document (:func:`vlaforget_ros.figures.document`) with ``gates`` and, by kind, ``attacks``.

    Raises:
        VlaForgetError: whatever stopped it; no attack is left half done in the document.
    """
    kinds = check_kinds(settings.kinds)
    subject = open_subject(settings.request, settings.adapter, settings.store)
    reference = None
    if settings.reference is not None:
        reference = VlaPolicy.load(settings.reference, settings.request.device)
        reference.model.eval().requires_grad_(False)
    bench = _Bench(settings, subject, reference, _trials(settings, subject, report), report)
    found = {kind: KINDS[kind](bench) for kind in kinds}
    return _document(bench, found)


def _trials(settings: AttackSettings, subject: Subject, report: Report) -> Trials | None:
    if settings.trials is None:
        return None
    edited = settings.out / "edited"
    edited.mkdir(parents=True, exist_ok=True)
    write_peft(settings.adapter, edited)
    return Trials(
        settings.trials,
        original_spec(subject, settings.out),
        PolicySpec(Path(settings.request.base), edited),
        settings.out / "checkpoints",
        report,
    )


def _quantisation(bench: _Bench) -> Findings:
    return quantise.attack(bench.subject, bench.trials, bench.report)


def _relearning(bench: _Bench) -> Findings:
    settings = relearn.RelearnSettings.of(bench.subject, bench.settings.seed, bench.settings.points)
    return relearn.attack(bench.subject, bench.reference, settings, bench.trials, bench.report)


def _variants(bench: _Bench) -> Findings:
    if bench.trials is None:
        return Findings(remarks=("variants are posed in closed loop: name a scenario of the simulated cell",))
    return variants.attack(bench.subject, bench.trials)


def _membership(bench: _Bench) -> Findings:
    fresh = None
    if bench.trials is not None:
        rolled = bench.trials.fresh()
        fresh = membership.frames_of_rollouts(rolled) if rolled else None
    return membership.attack(bench.subject, bench.reference, fresh, bench.report)


def _successive(bench: _Bench) -> Findings:
    settings = bench.settings
    scenario = settings.trials.scenario if settings.trials is not None else ""
    own = successive.Link("own", settings.request, scenario)
    return successive.attack(
        [own, *settings.links],
        settings.out / "successive",
        settings.adapter,
        settings.trials,
        bench.report,
    )


KINDS: dict[str, Callable[[_Bench], Findings]] = {
    "quantisation": _quantisation,
    "relearning": _relearning,
    "variants": _variants,
    "membership": _membership,
    "successive": _successive,
}
"""Name of an attack -> the attack."""


def _document(bench: _Bench, found: dict[str, Findings]) -> dict[str, Any]:
    settings, subject = bench.settings, bench.subject
    every: list[Figure] = [figure for findings in found.values() for figure in findings.figures]
    scenario = settings.trials.scenario if settings.trials is not None else None
    origin = {"commit": figures.commit(), "seed": settings.seed, "scenario": scenario}
    seeds = sorted({settings.seed, *(bench.trials.seeds if bench.trials is not None else ())})
    return figures.document(
        "attacks",
        every,
        seeds,
        adapter=settings.adapter.digest,
        base_digest=subject.policy.base_digest,
        request_sha256=settings.request.digest,
        reference=str(settings.reference.name) if settings.reference is not None else None,
        scenario=scenario,
        before=subject.before.row(),
        after=subject.after.row(),
        gates=[gate.row() for findings in found.values() for gate in findings.gates],
        attacks={kind: {**findings.row(), "origin": origin} for kind, findings in found.items()},
        not_proven=list(NOT_PROVEN),
    )


def merged(previous: Mapping[str, Any], document: Mapping[str, Any]) -> dict[str, Any]:
    """A document with the attacks of an earlier one that were not carried out again.

    A gate that failed must be measured again to be cleared: another kind of attack does not.

    Args:
        previous: document of an earlier run on the same adapter, or empty.
        document: of this run.
    """
    attacks = {**previous.get("attacks", {}), **document["attacks"]}
    return {
        **document,
        "attacks": attacks,
        "figures": [figure for findings in attacks.values() for figure in findings["figures"]],
        "gates": [gate for findings in attacks.values() for gate in findings["gates"]],
    }
