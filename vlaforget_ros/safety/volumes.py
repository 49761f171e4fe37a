"""Volumes: how deep a point is in a box, a sphere, a cylinder or a convex mesh, and whether one covers another.

Every volume is convex. ``depth`` of an inner point is its distance to the surface; of an outer one it is minus a
lower bound of that distance, which errs towards slowing too early.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from vlaforget_ros.safety.samples import Point

_FACETS = 64


class Volume(Protocol):
    """A convex part of space."""

    def depth(self, point: Point) -> float:
        """Distance to the surface from inside [m]; negative outside, 0 on it."""

    def outline(self) -> tuple[tuple[Point, ...], float]:
        """Points and a radius [m]: balls of the radius about the points have a convex hull that holds the volume."""


@dataclass(frozen=True)
class Box:
    """Axis-aligned box.

    Args:
        low: smallest corner [m].
        high: largest corner [m].
    """

    low: Point
    high: Point

    def depth(self, point: Point) -> float:
        """Distance to the nearest side [m]; outside minus the distance along the worst axis."""
        return min(min(p - a, b - p) for a, p, b in zip(self.low, point, self.high, strict=True))

    def outline(self) -> tuple[tuple[Point, ...], float]:
        """The eight corners."""
        (x, y, z), (u, v, w) = self.low, self.high
        return tuple((a, b, c) for a in (x, u) for b in (y, v) for c in (z, w)), 0.0


@dataclass(frozen=True)
class Sphere:
    """Ball.

    Args:
        centre: x y z [m].
        radius: [m].
    """

    centre: Point
    radius: float

    def depth(self, point: Point) -> float:
        """Radius minus the distance to the centre [m]."""
        return self.radius - math.dist(self.centre, point)

    def outline(self) -> tuple[tuple[Point, ...], float]:
        """The centre and the radius."""
        return (self.centre,), self.radius


@dataclass(frozen=True)
class Cylinder:
    """Round column with flat ends, in any direction.

    Args:
        base: centre of one end [m].
        top: centre of the other end [m].
        radius: [m].
    """

    base: Point
    top: Point
    radius: float

    @cached_property
    def _axis(self) -> tuple[Point, float]:
        length = math.dist(self.base, self.top)
        x, y, z = ((t - b) / length for b, t in zip(self.base, self.top, strict=True))
        return (x, y, z), length

    def depth(self, point: Point) -> float:
        """Distance to the nearest of side and ends [m]; outside minus the larger of the two distances."""
        axis, length = self._axis
        offset = [p - b for p, b in zip(point, self.base, strict=True)]
        along = sum(a * o for a, o in zip(axis, offset, strict=True))
        away = math.hypot(*(o - along * a for a, o in zip(axis, offset, strict=True)))
        return min(self.radius - away, along, length - along)

    def outline(self) -> tuple[tuple[Point, ...], float]:
        """Corners of the prism about it with 64 sides."""
        axis = np.array(self._axis[0])
        first = np.cross(axis, np.eye(3)[int(np.argmin(np.abs(axis)))])
        first /= np.linalg.norm(first)
        second = np.cross(axis, first)
        reach = self.radius / math.cos(math.pi / _FACETS)
        corners = []
        for end in (self.base, self.top):
            for k in range(_FACETS):
                angle = 2.0 * math.pi * k / _FACETS
                x, y, z = np.array(end) + reach * (math.cos(angle) * first + math.sin(angle) * second)
                corners.append((float(x), float(y), float(z)))
        return tuple(corners), 0.0


class Hull:
    """Convex hull of points, as the half-spaces of its faces.

    Args:
        vertices: four or more points [m], not all in one plane.

    Raises:
        ValueError: when they enclose no volume.
    """

    def __init__(self, vertices: Sequence[Point]) -> None:
        # Importing it takes a moment that rules without a mesh need not spend.
        from scipy.spatial import ConvexHull, QhullError

        try:
            hull = ConvexHull(np.asarray(vertices, dtype=float))
        except (QhullError, ValueError) as error:
            raise ValueError(f"{len(vertices)} vertices enclose no volume") from error
        # Unit outer normals and offsets: normal . x + offset <= 0 inside.
        self._normals, self._offsets = hull.equations[:, :3], hull.equations[:, 3]
        self._corners = tuple(
            (float(x), float(y), float(z)) for x, y, z in np.asarray(vertices, dtype=float)[hull.vertices]
        )

    def depth(self, point: Point) -> float:
        """Distance to the plane of the nearest face [m]; outside minus that of the farthest."""
        return -float(np.max(self._normals @ np.asarray(point) + self._offsets))

    def outline(self) -> tuple[tuple[Point, ...], float]:
        """Its corners."""
        return self._corners, 0.0


def covers(outer: Volume, inner: Volume, margin: float = 0.0) -> bool:
    """Whether all of ``inner`` lies in ``outer`` grown by ``margin`` [m]; True only when it surely does."""
    points, radius = inner.outline()
    return all(outer.depth(point) + margin >= radius for point in points)


def apart(first: Volume, second: Volume) -> bool:
    """Whether the boxes about two volumes have no point in common: then they have none either."""
    return any(a[1] < b[0] or b[1] < a[0] for a, b in zip(_bounds(first), _bounds(second), strict=True))


def _bounds(volume: Volume) -> list[tuple[float, float]]:
    points, radius = volume.outline()
    return [(min(axis) - radius, max(axis) + radius) for axis in zip(*points, strict=True)]
