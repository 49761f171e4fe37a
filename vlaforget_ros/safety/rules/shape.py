"""The keys with which a rule names a volume."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationInfo, model_validator

from vlaforget_ros.safety.mesh_file import read_corners
from vlaforget_ros.safety.rules.base import RuleSettings
from vlaforget_ros.safety.samples import Point
from vlaforget_ros.safety.volumes import Box, Cylinder, Hull, Sphere, Volume

_KEYS: dict[str, tuple[str, ...]] = {
    "box": ("low_m", "high_m"),
    "sphere": ("centre_m", "radius_m"),
    "cylinder": ("base_m", "top_m", "radius_m"),
    "mesh": ("vertices_m",),
}
_ALL = tuple(dict.fromkeys(key for keys in _KEYS.values() for key in keys))


class VolumeSettings(RuleSettings):
    """A volume in the frame of the rules file; exactly the keys of its shape are given.

    Args:
        shape: box (``low_m``, ``high_m``), sphere (``centre_m``, ``radius_m``), cylinder (``base_m``, ``top_m``,
            ``radius_m``) or mesh (``vertices_m`` or ``file``).
        low_m: smallest corner of a box [m].
        high_m: largest corner of a box [m].
        centre_m: of a sphere [m].
        radius_m: of a sphere or a cylinder [m].
        base_m: centre of one end of a cylinder [m].
        top_m: centre of the other end [m].
        vertices_m: corners of a mesh [m]; their convex hull is meant.
        file: STL or OBJ file of a mesh in place of its corners; a relative path begins at the rules file's folder.
        scale: metres in a unit of that file.
        convex_hull: the hull of a file's mesh is meant, where it is not convex itself.
    """

    shape: Literal["box", "sphere", "cylinder", "mesh"] = "box"
    low_m: Point | None = None
    high_m: Point | None = None
    centre_m: Point | None = None
    radius_m: float | None = Field(default=None, gt=0.0, le=100.0)
    base_m: Point | None = None
    top_m: Point | None = None
    vertices_m: tuple[Point, ...] | None = None
    file: Path | None = None
    scale: float = Field(default=1.0, gt=0.0, le=1000.0)
    convex_hull: bool = False

    @model_validator(mode="before")
    @classmethod
    def _from_file(cls, entry: Any, info: ValidationInfo) -> Any:
        """Put a file's corners where given ones would be."""
        if not isinstance(entry, dict):
            return entry
        if entry.get("file") is None:
            alone = [key for key in ("scale", "convex_hull") if key in entry]
            if alone:
                raise ValueError(f"{alone[0]} goes with file")
            return entry
        if entry.get("shape") != "mesh" or "vertices_m" in entry:
            raise ValueError("file goes with shape: mesh, in place of vertices_m")
        scale, hull = entry.get("scale", 1.0), entry.get("convex_hull", False)
        if isinstance(scale, bool) or not isinstance(scale, int | float) or not isinstance(hull, bool):
            raise ValueError("scale is a number, convex_hull true or false")
        folder = (info.context or {}).get("folder", Path())
        return {**entry, "vertices_m": read_corners(folder / str(entry["file"]), float(scale), hull)}

    def slow_until(self) -> float | None:
        """The surface: depth 0."""
        return 0.0

    @model_validator(mode="after")
    def _whole(self) -> VolumeSettings:
        wanted = _KEYS[self.shape]
        for key in _ALL:
            if (getattr(self, key) is None) == (key in wanted):
                verb = "needs" if key in wanted else "does not take"
                raise ValueError(f"shape {self.shape} {verb} {key} (its keys: {', '.join(wanted)})")
        if self.low_m and self.high_m and any(a >= b for a, b in zip(self.low_m, self.high_m, strict=True)):
            raise ValueError(f"low_m {self.low_m} must be below high_m {self.high_m} on every axis")
        if self.base_m is not None and self.base_m == self.top_m:
            raise ValueError(f"base_m {self.base_m} and top_m {self.top_m} must differ")
        self.volume()
        return self

    def volume(self) -> Volume:
        """The volume these keys describe. Raises ValueError for a mesh that encloses none."""
        if self.low_m is not None and self.high_m is not None:
            return Box(self.low_m, self.high_m)
        if self.centre_m is not None and self.radius_m is not None:
            return Sphere(self.centre_m, self.radius_m)
        if self.base_m is not None and self.top_m is not None and self.radius_m is not None:
            return Cylinder(self.base_m, self.top_m, self.radius_m)
        return Hull(self.vertices_m or ())


def placed(position: Point) -> str:
    """A position for a message."""
    return f"({', '.join(f'{p:.3f}' for p in position)}) m"
