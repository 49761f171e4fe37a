"""Keep-out zone: the end effector must stay out of a volume."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from vlaforget_ros.safety.rules.base import Reading
from vlaforget_ros.safety.rules.shape import VolumeSettings, placed
from vlaforget_ros.safety.samples import Point, PoseSample


class KeepOutSettings(VolumeSettings):
    """A volume nobody's arm may enter; ``slow_from`` is a depth: -0.1 slows from 10 cm before the border on.

    Args:
        margin_m: the volume is grown by this on every side [m].
    """

    type: Literal["keep_out"] = "keep_out"
    margin_m: float = Field(default=0.0, ge=0.0, le=1.0)


class KeepOut:
    """Broken while the point is inside the volume or on its border; the value is the depth inside [m]."""

    judges: ClassVar[tuple[type, ...]] = (PoseSample,)

    def __init__(self, settings: KeepOutSettings) -> None:
        self.settings = settings
        self._volume = settings.volume()

    def check(self, sample: PoseSample) -> Reading:
        """Depth of the point inside the grown volume [m]; negative outside."""
        return self.at(sample.position)

    def at(self, position: Point) -> Reading:
        """Judge a position [m]."""
        # Corners and edges are grown as if the faces were moved outwards: never less than the margin asks for.
        depth = self._volume.depth(position) + self.settings.margin_m
        message = f"end effector at {placed(position)} is inside the zone"
        return Reading(depth >= 0.0, depth, 0.0, "m", message)

    def restart(self) -> None:
        """Nothing to forget."""
