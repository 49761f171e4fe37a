"""What gates and figures are called and what they mean, for people who do not know the abbreviations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Unit = Literal["percent", "points", "ratio", "nat"]


@dataclass(frozen=True)
class Word:
    """A figure in words.

    Args:
        title: short, with the abbreviation that the documentation uses.
        meaning: one clause.
        unit: of its value.
        better: which way is better.
    """

    title: str
    meaning: str
    unit: Unit = "ratio"
    better: Literal["up", "down"] = "down"


_FC = "share of the undesired frames on which the policy now does something else than was recorded"
_DISTANCE = "mean distance of its actions to those before the edit (0: the same, 1: the whole range)"

GATES: dict[str, Word] = {
    "fc_min": Word("FC (forget completeness)", _FC, "percent", "up"),
    "fc_low_min": Word("FC's lower bound", "lower end of FC's 95 % interval", "percent", "up"),
    "fc_earlier_min": Word(
        "FC of earlier requests",
        "the same for what earlier edits took out; the one that suffered most",
        "percent",
        "up",
    ),
    "rc_min": Word(
        "RC (retain completeness)",
        "share of held-out retained frames on which it still does what it did before",
        "percent",
        "up",
    ),
    "rad_max": Word("RAD on retained frames", _DISTANCE),
    "rad_boundary_max": Word("RAD on near neighbours", "the same on near neighbours of what was forgotten"),
    "merge_tolerance": Word(
        "merging", "largest change of an action's probability when the adapter is merged into the weights"
    ),
    "merge_loss_max": Word(
        "loss by merging",
        "FC or RC that is lost, whichever loses more, when the adapter is merged into weights of 16 bits",
        "points",
    ),
    "tsr_loss_max": Word(
        "loss of TSR",
        "retained tasks that no longer succeed in closed loop, same situations and seeds before and after",
        "points",
    ),
    "fts_share_min": Word(
        "FTS against never-saw",
        "safe success in the forget scenario, as a share of that of a policy that never saw the behaviour",
        "percent",
        "up",
    ),
    "svr_rise_max": Word("rise of SVR", "more retained episodes with a violation than before", "points"),
    "sbu_rise_max": Word(
        "rise of SBU", "more retained episodes that succeed and violate than before", "points"
    ),
    "qrr_int8_max": Word("QRR at int8", "share of the forgetting that rounding the weights to int8 undoes"),
    "qrr_4bit_max": Word("QRR at 4bit", "the same at 4 bits, nf4 or int4, whichever undoes more"),
}

METRICS: dict[str, Word] = {
    "fc": Word("FC (forget completeness)", f"{_FC}; trained on too", "percent", "up"),
    "undesired": Word("undesired motions", "their mean probability on held-out forget frames"),
    "repair": Word("repair", "mean distance to what should be done instead, on held-out frames"),
    "counterfactual": Word("cross-entropy of the right actions", "on held-out counterfactual frames", "nat"),
    "fad": Word("FAD", "action distance on the forget frames; large for a ruined policy, too", better="up"),
    "rc": Word("RC (retain completeness)", GATES["rc_min"].meaning, "percent", "up"),
    "rad": Word("RAD on retained frames", _DISTANCE),
    "rad_boundary": Word("RAD on near neighbours", "the same on near neighbours"),
}

# Figures in closed loop, in the order in which people read them.
PAIRS: dict[str, str] = {
    "svr": "SVR, forget scenario",
    "bsr": "targeted behaviour",
    "fts": "FTS, safe success in the forget scenario",
    "sbu": "SBU, succeeds and violates",
    "tsr": "TSR, retained tasks",
    "tsr_boundary": "TSR, near neighbours",
    "tsr_near": "TSR, near neighbours that are no retained task",
    "svr_retain": "SVR, retained tasks",
    "sbu_retain": "SBU, retained tasks",
}
# The others, in that order; what is not listed is called by its name.
FIGURES: dict[str, str] = {
    "fc": "FC, forget completeness",
    "rc": "RC (retain completeness)",
    "fad": "FAD, action distance on forget frames",
    "rad": "RAD, action distance on retained frames",
    "rad_boundary": "RAD, near neighbours",
    "tsr_loss": "paired loss of TSR",
    "edit_seconds": "edit",
    "edit_peak_mb": "peak memory of the edit",
    "adapter_mb": "adapter",
    "swap_ms": "swap: model not available",
    "swap_staged_ms": "swap: staged beside the running model",
    "swap_effective_ticks": "swap: ticks until it acts",
    "rollback_ms": "rollback",
    "missed_ticks": "missed ticks (100 ms)",
    "mixed_actions": "actions from a mixture of adapters",
    "episodes": "episodes",
    "tsr_loss_p": "p of McNemar's exact test on these pairs",
}
UP = ("fts", "tsr", "tsr_boundary", "tsr_near")


def gate_word(name: str) -> Word:
    """What a gate asks about; a gate that is not known here is called by its name."""
    if name in GATES:
        return GATES[name]
    better: Literal["up", "down"] = "up" if name.endswith("_min") else "down"
    return Word(name, "", "ratio", better)


def metric_word(name: str) -> Word:
    """What a metric of an edit is."""
    if name in METRICS:
        return METRICS[name]
    earlier = name.removeprefix("fc_earlier_")
    if earlier != name:
        return Word(
            f"FC of the earlier request {earlier}", "what it took out and is still out", "percent", "up"
        )
    return Word(name, "")


def show(value: float | None, unit: Unit | str = "ratio") -> str:
    """A value with its unit as it stands in sentences and tables; a dash where there is none."""
    if value is None:
        return "–"
    if unit == "percent":
        return f"{value:.1f} %"
    if unit == "points":
        return f"{value:.1f} points"
    return f"{value:.3g} nat" if unit == "nat" else number(value)


def interval(low: float | None, high: float | None, unit: Unit | str = "ratio") -> str:
    """Bounds in brackets, "" without."""
    if low is None or high is None:
        return ""
    digits = "{:.1f}" if unit in ("percent", "points") else "{:.3g}"
    return f"[{digits.format(low)}, {digits.format(high)}]"


def number(value: float) -> str:
    """Four significant digits, whole numbers without a point."""
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.4g}"
