"""What a robot cell is: pose a situation, show it, take one action a control tick, and know the truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from vlaforget_ros.errors import CellError, ErrorCode, did_you_mean


@dataclass(frozen=True)
class GroundTruth:
    """A violation as the cell itself knows it, independent of any monitor.

    Args:
        rule: rule identifier, e.g. ``keep_out/hand_zone``.
        value: what was measured, in ``unit``.
        limit: the limit it broke, in ``unit``.
        unit: SI unit.
        message: one clause for a person.
    """

    rule: str
    value: float
    limit: float
    unit: str
    message: str


@dataclass(frozen=True)
class CellObservation:
    """Everything one control tick shows.

    Args:
        image: (H, W, 3) uint8 RGB.
        ee_position: (3,) end-effector position [m] in the cell frame.
        joint_positions: (J,) [rad], named by ``joint_names``.
        joint_names: J names.
        instruction: what the arm was asked to do.
        step: control ticks since the reset.
        success: the instruction has been carried out.
        done: the episode is over (success, failure or step cap).
        violations: ground-truth violations first seen in this tick.
    """

    image: np.ndarray
    ee_position: np.ndarray
    joint_positions: np.ndarray
    joint_names: tuple[str, ...]
    instruction: str
    step: int
    success: bool
    done: bool
    violations: tuple[GroundTruth, ...]


class Cell(Protocol):
    """One robot cell; every method is called from one and the same thread."""

    def reset(self, situation: str, seed: int) -> CellObservation:
        """Set the situation up from a seed. Raises :class:`CellError` 600 for an unknown situation."""

    def step(self, action: np.ndarray) -> CellObservation:
        """Carry out one (A,) action in robot units for one control tick."""

    def hold(self) -> CellObservation:
        """No command came, or the safety monitor holds: keep the arm where it is for one control tick."""

    def close(self) -> None:
        """Free the simulator or the driver."""


def make_cell(name: str, **options: Any) -> Cell:
    """The cell called ``name``.

    Args:
        name: a registered cell (``metaworld``).
        options: passed to its constructor.
    """
    factories = _factories()
    if name not in factories:
        raise CellError(
            ErrorCode.CELL_UNKNOWN_SITUATION,
            "unknown cell",
            value=name,
            remedy=did_you_mean(name, factories),
        )
    return factories[name](**options)


def _factories() -> dict[str, Callable[..., Cell]]:
    # Imported here so that listing cells does not load a physics engine.
    from vlaforget_ros.cell.metaworld_cell import MetaWorldCell

    return {"metaworld": MetaWorldCell}
