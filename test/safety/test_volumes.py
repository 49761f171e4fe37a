"""Volumes against plain formulae, and the graded slow-down before their borders."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlaforget_ros.safety.rules.keep_out import KeepOut, KeepOutSettings
from vlaforget_ros.safety.rules.workspace import Workspace, WorkspaceSettings
from vlaforget_ros.safety.samples import Point
from vlaforget_ros.safety.volumes import Box, Cylinder, Hull, Sphere, Volume, apart, covers

coordinate = st.floats(-3.0, 3.0)
point = st.tuples(coordinate, coordinate, coordinate)
LOW, HIGH = (-1.0, -0.5, 0.0), (1.0, 0.5, 2.0)
BOX = Box(LOW, HIGH)
BALL = Sphere((0.0, 0.0, 1.0), 1.5)
COLUMN = Cylinder((0.0, 0.0, 0.0), (0.0, 0.0, 2.0), 0.5)
TETRAHEDRON = Hull(((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)))


@given(point)
def test_a_mesh_of_a_boxs_corners_is_the_box(p: Point) -> None:
    hull = Hull(BOX.outline()[0])
    assert hull.depth(p) == pytest.approx(BOX.depth(p), abs=1e-9)


@given(point)
def test_the_upright_column_is_a_disc_times_an_interval(p: Point) -> None:
    expected = min(0.5 - math.hypot(p[0], p[1]), p[2], 2.0 - p[2])
    assert COLUMN.depth(p) == pytest.approx(expected, abs=1e-9)


@given(point)
def test_a_tilted_column_is_the_upright_one_turned(p: Point) -> None:
    # x and z change places.
    lying = Cylinder((0.0, 0.0, 0.0), (2.0, 0.0, 0.0), 0.5)
    assert lying.depth((p[2], p[1], p[0])) == pytest.approx(COLUMN.depth(p), abs=1e-9)


@given(point)
def test_inside_the_tetrahedron_is_a_sum_below_one(p: Point) -> None:
    expected = min(p[0], p[1], p[2], (1.0 - sum(p)) / math.sqrt(3.0))
    assert TETRAHEDRON.depth(p) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("volume", "where", "depth"),
    [
        (BALL, (0.0, 0.0, 1.0), 1.5),
        (BALL, (0.0, 3.0, 1.0), -1.5),
        (BOX, (0.9, 0.0, 1.0), 0.1),
        (BOX, (1.3, 0.0, 1.0), -0.3),
        (COLUMN, (0.3, 0.4, 1.0), 0.0),
        (COLUMN, (0.0, 0.0, 2.5), -0.5),
    ],
)
def test_depths_by_hand(volume: Volume, where: Point, depth: float) -> None:
    assert volume.depth(where) == pytest.approx(depth)


@given(
    point,
    st.sampled_from([BOX, BALL, COLUMN, TETRAHEDRON]),
    st.sampled_from([BOX, BALL, COLUMN, TETRAHEDRON]),
)
def test_what_is_covered_has_no_point_outside(p: Point, outer: Volume, inner: Volume) -> None:
    if covers(outer, inner) and inner.depth(p) >= 0.0:
        assert outer.depth(p) >= -1e-9
    if apart(outer, inner):
        assert not (outer.depth(p) >= 0.0 and inner.depth(p) >= 0.0)


def test_cover_by_hand() -> None:
    assert covers(BOX, Sphere((0.0, 0.0, 1.0), 0.5))
    assert not covers(BOX, Sphere((0.0, 0.0, 1.0), 0.51))
    assert covers(BALL, COLUMN)
    assert not covers(COLUMN, BALL)
    assert covers(BOX, TETRAHEDRON, 0.5)
    assert not covers(BOX, TETRAHEDRON, 0.4)
    assert apart(COLUMN, Sphere((3.0, 0.0, 0.0), 2.4))


@given(point)
def test_keep_out_and_workspace_of_one_shape_never_agree_inside(p: Point) -> None:
    keys = {"shape": "cylinder", "base_m": (0, 0, 0), "top_m": (0, 0, 2), "radius_m": 0.5}
    inside = COLUMN.depth(p) >= 0.0
    assert KeepOut(KeepOutSettings(id="k", **keys)).at(p).broken == inside
    assert Workspace(WorkspaceSettings(id="w", **keys)).at(p).broken == (not inside)


def test_a_mesh_zone_with_a_margin() -> None:
    corners = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    zone = KeepOut(KeepOutSettings(id="k", shape="mesh", vertices_m=corners, margin_m=0.1))
    assert zone.at((-0.05, 0.2, 0.2)).broken
    assert zone.at((-0.05, 0.2, 0.2)).value == pytest.approx(0.05)
    assert not zone.at((-0.15, 0.2, 0.2)).broken
