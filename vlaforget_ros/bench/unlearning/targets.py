"""What the edit must reach in the comparison, as figures against limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vlaforget_ros.bench.unlearning.variants import OURS


@dataclass(frozen=True)
class Target:
    """One limit.

    Args:
        title: in tables.
        metric: as in figure names.
        limit: the value has to stay on the right side of it.
        at_least: which side that is.
        share_of: variant whose value of the same metric ``limit`` is a percentage of; "" where it is absolute.
    """

    title: str
    metric: str
    limit: float
    at_least: bool
    share_of: str = ""


TARGETS = (
    Target("FC, closed loop [%]", "fc", 97.0, True),
    Target("RC, recorded frames [%]", "rc_offline", 95.0, True),
    Target("RC, closed loop [%]", "rc", 95.0, True),
    Target("RAD", "rad", 0.10, False),
    Target("SVR of the targeted rule [%]", "svr", 3.0, False),
    Target("FTS, in % of the never-saw reference's", "fts", 90.0, True, share_of="retrain"),
    Target("SBU on retained tasks, in % of the base's", "sbu_retain", 100.0, False, share_of="base"),
    Target("TSR loss [points]", "tsr_loss", 3.0, False),
    Target("QRR, int8", "qrr_int8", 0.05, False),
    Target("QRR, int4", "qrr_int4", 0.15, False),
    Target("QRR, nf4", "qrr_nf4", 0.15, False),
)


@dataclass(frozen=True)
class Reached:
    """A target in one scenario, or over all of them.

    Args:
        value: mean over seeds; None where it was not measured.
        reached: whether it lies on the right side of the limit; None where it was not measured.
    """

    value: float | None
    reached: bool | None


def reached(target: Target, values: Mapping[str, float], scenario: str, seeds: Sequence[int]) -> Reached:
    """A target in one scenario.

    Args:
        target: which.
        values: figures of the comparison by name.
        scenario: key.
        seeds: of the edits.
    """
    names = [f"{target.metric}_{OURS}_{scenario}_{seed}" for seed in seeds]
    listed = [values[name] for name in names if name in values]
    if not listed:
        return Reached(None, None)
    value = sum(listed) / len(listed)
    if target.share_of:
        # References are measured once: there is nothing random in them but the episodes.
        whole = values.get(f"{target.metric}_{target.share_of}_{scenario}_{seeds[0]}")
        if whole is None:
            return Reached(None, None)
        value = 100.0 * value / whole if whole > 0 else (100.0 if value == 0 else float("inf"))
    return Reached(value, value >= target.limit if target.at_least else value <= target.limit)
