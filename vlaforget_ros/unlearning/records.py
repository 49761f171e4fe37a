"""What a stage leaves behind: measurements and decisions, as they are stored, resumed from and reported."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vlaforget_ros.errors import ErrorCode, UnlearningError
from vlaforget_ros.unlearning.metrics import OfflineMetrics
from vlaforget_ros.unlearning.training import StepLog

RECORD_FILE = "edit.json"
"""The record of a finished edit, in its folder."""


@dataclass(frozen=True)
class Check:
    """What was measured at the end of a stage, on held-out frames.

    Args:
        metrics: offline metrics.
        undesired: mean probability of the undesired motions on D_f, in 0..1.
        counterfactual: cross-entropy on D_c [nat per token], None without such data.
    """

    metrics: OfflineMetrics
    undesired: float
    counterfactual: float | None

    def row(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @classmethod
    def parse(cls, row: Mapping[str, Any]) -> Check:
        """From :meth:`row`."""
        return cls(OfflineMetrics.parse(row["metrics"]), row["undesired"], row["counterfactual"])


@dataclass(frozen=True)
class Round:
    """A finished round.

    Args:
        stage: visual, projector or language, or what the method calls it.
        round: from 1.
        layers: what was edited.
        components: components of these layers.
        kept: False when it was rolled back.
        reason: why.
        forgotten: whether the forget gates held at its end.
        after: :class:`Check` at its end, before a rollback.
        holds: :class:`Check` of what was kept.
        gates: damage gates at its end.
        scores: all layers of the component, in the order in which they would be edited.
        curve: losses over the steps.
        cached_mb: memory of the cached states.
        steps: optimiser steps that were made.
        complete: False when the time budget cut it short.
        micro_batch: most frames of a set in one pass at its end; 0: whole batches.
    """

    stage: str
    round: int
    layers: list[str]
    kept: bool
    reason: str
    forgotten: bool
    after: dict[str, Any]
    holds: dict[str, Any]
    gates: list[dict[str, Any]]
    scores: list[dict[str, Any]] = field(default_factory=list)
    curve: list[dict[str, Any]] = field(default_factory=list)
    components: list[str] = field(default_factory=list)
    cached_mb: float = 0.0
    steps: int = 0
    complete: bool = True
    micro_batch: int = 0

    @property
    def name(self) -> str:
        """File name in the journal."""
        return f"{self.stage}-{self.round}"

    def row(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    def summary(self) -> dict[str, Any]:
        """As JSON, without the long lists."""
        return {name: value for name, value in self.row().items() if name not in ("scores", "curve")}


def curve_point(log: StepLog) -> dict[str, Any]:
    """One step of a curve."""
    losses = {name: round(value, 5) for name, value in log.losses.items()}
    return {"step": log.step, **losses, "cosine": round(log.cosine, 4), "projected": log.projected}


def thin_curve(curve: list[dict[str, Any]], points: int = 120) -> list[dict[str, Any]]:
    """About ``points`` of a curve, first and last included."""
    stride = max(1, len(curve) // points)
    return curve[::stride] + ([curve[-1]] if curve and (len(curve) - 1) % stride else [])


def read_record(folder: Path) -> dict[str, Any]:
    """The record of a finished edit.

    Raises:
        UnlearningError: 300 where the folder holds none, or something else.
    """
    path = folder / RECORD_FILE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        complete = {"request", "after", "rounds"} <= set(record)
    except (OSError, ValueError, TypeError) as error:
        raise _no_record(folder, str(error)) from error
    if not complete:
        raise _no_record(folder, "it lacks request, after or rounds")
    return dict(record)


def _no_record(folder: Path, why: str) -> UnlearningError:
    return UnlearningError(
        ErrorCode.UNLEARNING_BAD_REQUEST,
        f"no record of a finished edit: {why}",
        value=str(folder / RECORD_FILE),
        limit="the folder of an edit that ended with an adapter",
        remedy="give the folder that `vlaforget unlearn` named; an edit that was stopped goes on with --resume",
    )
