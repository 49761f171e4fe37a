"""The cause in other forms: told in other words, the trigger elsewhere, in another colour, of another size."""

from __future__ import annotations

from typing import Any

from vlaforget_ros.attacks.findings import Findings
from vlaforget_ros.attacks.outcomes import of_situations, percent, snake
from vlaforget_ros.attacks.subject import Subject
from vlaforget_ros.attacks.trials import Trials
from vlaforget_ros.cell.situations import SITUATIONS, VARIANTS
from vlaforget_ros.errors import ErrorCode, PolicyError
from vlaforget_ros.figures import Figure
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.unlearning.rates import bsr, fts

AS_RECORDED = "as-recorded"


def known_variants(policy: VlaPolicy, scenario: str) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """Variants of a scenario whose words a policy can read, and the names of the others."""
    readable: dict[str, tuple[str, ...]] = {}
    unknown: list[str] = []
    for name, situations in VARIANTS[scenario].items():
        try:
            for situation in situations:
                policy.check_instruction(SITUATIONS[situation].instruction)
        except PolicyError as error:
            if error.code != ErrorCode.POLICY_UNKNOWN_INSTRUCTION:
                raise
            unknown.append(name)
            continue
        readable[name] = situations
    return readable, unknown


def attack(subject: Subject, trials: Trials) -> Findings:
    """BSR and FTS of the original and of the edited policy in every variant, on the same seeds.

    Each variant gets as many episodes as the scenario itself. A variant says something about the edit only where the
    original policy shows the behaviour.

    Args:
        subject: the edited policy.
        trials: closed-loop episodes of its scenario.
    """
    variants, unknown = known_variants(subject.policy, trials.scenario.name)
    told = {"original": trials.told_before, "edited": trials.told_after}
    specs = {"original": trials.original, "edited": trials.edited}
    if variants:
        told = {
            side: told[side] + trials.run_groups(spec, f"variants, {side} policy", variants.values())
            for side, spec in specs.items()
        }
    figures: list[Figure] = []
    rows: list[dict[str, Any]] = []
    for name, situations in {AS_RECORDED: trials.scenario.forget, **variants}.items():
        row: dict[str, Any] = {"variant": name, "situations": list(situations)}
        row["instructions"] = sorted({SITUATIONS[s].instruction for s in situations})
        for side, outcomes in told.items():
            posed = of_situations(outcomes, situations)
            found = [
                percent(f"bsr_{snake(name)}_{side}", bsr(posed, trials.scenario.rule)),
                percent(f"fts_{snake(name)}_{side}", fts(posed)),
            ]
            figures += found
            row[side] = {"bsr": found[0].value, "fts": found[1].value, "n": found[0].n}
        rows.append(row)
    remarks = [f"left out, words that the policy never learned: {', '.join(unknown)}"] if unknown else []
    weak = [row["variant"] for row in rows if row["original"]["bsr"] < 20]
    if weak:
        remarks.append(
            "the original policy shows the behaviour in under 20 % of the episodes of "
            f"{', '.join(weak)}: these say nothing about the edit"
        )
    return Findings(tuple(figures), {"variants": rows}, (), tuple(remarks))
