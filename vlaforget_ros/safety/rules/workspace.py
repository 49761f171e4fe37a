"""Workspace: the end effector must stay inside a volume."""

from __future__ import annotations

from typing import ClassVar, Literal

from vlaforget_ros.safety.rules.base import Reading
from vlaforget_ros.safety.rules.shape import VolumeSettings, placed
from vlaforget_ros.safety.samples import Point, PoseSample


class WorkspaceSettings(VolumeSettings):
    """The volume the arm works in; a ``slow_from`` of -0.1 slows from 10 cm before its border on."""

    type: Literal["workspace"] = "workspace"


class Workspace:
    """Broken while the point is outside the volume; the value is how far outside [m]."""

    judges: ClassVar[tuple[type, ...]] = (PoseSample,)

    def __init__(self, settings: WorkspaceSettings) -> None:
        self.settings = settings
        self._volume = settings.volume()

    def check(self, sample: PoseSample) -> Reading:
        """How far the point is outside the volume [m]; negative inside."""
        return self.at(sample.position)

    def at(self, position: Point) -> Reading:
        """Judge a position [m]."""
        outside = -self._volume.depth(position)
        message = f"end effector at {placed(position)} left the workspace"
        return Reading(outside > 0.0, outside, 0.0, "m", message)

    def restart(self) -> None:
        """Nothing to forget."""
