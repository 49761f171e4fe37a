"""What an attack found, as values: figures for tables, details for the report, remarks for the reader."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from vlaforget_ros.figures import Figure
from vlaforget_ros.unlearning.gates import GateResult

Report = Callable[[str, int, int], None]
"""Called with (what is being done, done, all)."""


@dataclass(frozen=True)
class Findings:
    """One attack's.

    Args:
        figures: with stable names.
        details: JSON values behind them: curves, rows of tables.
        gates: verdicts on them.
        remarks: what a reader must know: what was not measured and why, how coarse a figure is.
    """

    figures: tuple[Figure, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)
    gates: tuple[GateResult, ...] = ()
    remarks: tuple[str, ...] = ()

    def row(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "figures": [asdict(figure) for figure in self.figures],
            "details": self.details,
            "gates": [gate.row() for gate in self.gates],
            "remarks": list(self.remarks),
        }


def quiet(what: str, done: int, total: int) -> None:
    """A report to nobody."""
