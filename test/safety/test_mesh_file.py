"""Meshes from files: real STL and OBJ files, convex ones and others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import trimesh

from vlaforget_ros.errors import SafetyError
from vlaforget_ros.safety.config import load_config, parse_config
from vlaforget_ros.safety.mesh_file import read_corners
from vlaforget_ros.safety.rules.keep_out import KeepOut, KeepOutSettings

RULES = "rules: [{{type: keep_out, id: zone, shape: mesh, {keys}}}]"


def box() -> trimesh.Trimesh:
    """2 x 4 x 6, about the origin."""
    return trimesh.creation.box(extents=(2.0, 4.0, 6.0))


def dented() -> trimesh.Trimesh:
    """The box with one side pushed in."""
    mesh = box().subdivide()
    mesh.vertices[np.all(np.isclose(mesh.vertices, (1.0, 0.0, 0.0)), axis=1)] = (0.0, 0.0, 0.0)
    return mesh


def write(folder: Path, mesh: trimesh.Trimesh, name: str) -> Path:
    path = folder / name
    kind = "stl_ascii" if "text" in name else path.suffix[1:]
    exported = mesh.export(file_type=kind)
    path.write_bytes(exported.encode() if isinstance(exported, str) else exported)
    return path


@pytest.mark.parametrize("name", ["post.stl", "text.stl", "post.obj", "POST.STL"])
def test_a_file_gives_the_volume_of_its_mesh_beside_the_rules_file(tmp_path: Path, name: str) -> None:
    write(tmp_path, box(), name)
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES.format(keys=f"file: {name}, scale: 0.1"))
    (settings,) = load_config(rules).rules
    assert isinstance(settings, KeepOutSettings)
    zone = KeepOut(settings)
    for x in np.linspace(-0.3, 0.3, 7):
        depth = min(0.1 - abs(x), 0.2)
        assert zone.at((float(x), 0.0, 0.0)).value == pytest.approx(depth, abs=1e-6)


def test_many_corners_become_those_of_the_hull(tmp_path: Path) -> None:
    fine = box().subdivide().subdivide()
    assert len(fine.vertices) > 50
    assert len(read_corners(write(tmp_path, fine, "fine.stl"), 1.0, False)) == 8


def test_a_mesh_that_is_not_convex_is_refused_or_its_hull_is_meant(tmp_path: Path) -> None:
    path = write(tmp_path, dented(), "dented.stl")
    with pytest.raises(SafetyError, match=r"not convex, it fills \d\d\.\d% of its convex hull") as refused:
        parse_config(RULES.format(keys=f"file: {path}"))
    assert refused.value.code == 403
    (settings,) = parse_config(RULES.format(keys=f"file: {path}, convex_hull: true")).rules
    assert isinstance(settings, KeepOutSettings)
    assert KeepOut(settings).at((0.9, 0.0, 0.0)).broken


def test_an_open_mesh_is_refused(tmp_path: Path) -> None:
    whole = box()
    whole.update_faces(np.arange(len(whole.faces)) > 1)
    path = write(tmp_path, whole, "open.stl")
    with pytest.raises(ValueError, match="not closed"):
        read_corners(path, 1.0, False)
    assert len(read_corners(path, 1.0, True)) == 8


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ("file: none.stl", "No such file"),
        ("file: post.step", "ends in .stl or .obj"),
        ("file: junk.stl", "junk.stl"),
        ("file: junk.obj", "junk.obj"),
        ("file: empty.stl", "empty.stl"),
        ("file: flat.obj", "enclose no volume"),
        ("file: nan.obj", "not finite"),
        ("file: post.stl, vertices_m: [[0,0,0]]", "in place of vertices_m"),
        ("file: post.stl, scale: 0", "scale"),
        ("file: post.stl, scale: big", "scale is a number"),
        ("vertices_m: [[0,0,0],[1,0,0],[0,1,0],[0,0,1]], scale: 2", "scale goes with file"),
        ("file: post.stl, colour: red", "colour"),
    ],
)
def test_what_is_no_mesh_is_refused_with_403(tmp_path: Path, keys: str, says: str) -> None:
    write(tmp_path, box(), "post.stl")
    (tmp_path / "junk.stl").write_bytes(b"solid \xff\xfe nothing of the kind" * 9)
    (tmp_path / "junk.obj").write_text("v 0 zero 0\nf 1 2 9\n")
    (tmp_path / "empty.stl").write_bytes(b"")
    (tmp_path / "flat.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    (tmp_path / "nan.obj").write_text("v 0 0 nan\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 2 3\nf 1 2 4\n")
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES.format(keys=keys))
    with pytest.raises(SafetyError) as refused:
        load_config(rules)
    assert refused.value.code == 403
    assert says in str(refused.value)


def test_a_file_is_only_for_a_mesh(tmp_path: Path) -> None:
    with pytest.raises(SafetyError, match="goes with shape: mesh"):
        parse_config("rules: [{type: keep_out, id: zone, file: post.stl}]")
