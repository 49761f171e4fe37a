"""The corners of a convex volume from a mesh file (STL or OBJ), as CAD programs write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vlaforget_ros.safety.samples import Point

KINDS = (".stl", ".obj")
_LARGEST_BYTES = 64 * 2**20
_CONVEX_SHARE = 0.999


def read_corners(path: Path, scale: float, convex_hull: bool) -> tuple[Point, ...]:
    """Corners of a mesh's convex hull.

    Args:
        path: STL (binary or text) or OBJ file.
        scale: metres in a unit of the file, which does not say its unit: 0.001 for millimetres.
        convex_hull: the hull is meant where the mesh is not convex or not closed; otherwise such a mesh is refused.

    Returns:
        N points [m].

    Raises:
        ValueError: for a file that cannot be read, encloses no volume, or is not convex.
    """
    mesh = _load(path)
    vertices = np.asarray(mesh.vertices, dtype=float)
    if not len(mesh.faces) or not np.all(np.isfinite(vertices)):
        raise ValueError(f"{path}: no triangles, or corners that are not finite")
    # Importing it takes a moment that rules without a mesh need not spend.
    from scipy.spatial import ConvexHull, QhullError

    try:
        hull = ConvexHull(vertices)
    except (QhullError, ValueError) as error:
        raise ValueError(f"{path}: {len(vertices)} corners enclose no volume") from error
    if not convex_hull:
        _check_convex(path, mesh, hull.volume)
    return tuple((float(x), float(y), float(z)) for x, y, z in scale * vertices[hull.vertices])


def _load(path: Path) -> Any:
    if path.suffix.lower() not in KINDS:
        raise ValueError(f"{path}: a mesh file ends in {' or '.join(KINDS)}")
    import trimesh

    try:
        size = path.stat().st_size
        if size > _LARGEST_BYTES:
            raise ValueError(f"{path}: {size} bytes, at most {_LARGEST_BYTES}: simplify the mesh")
        with path.open("rb") as file:
            # A file object and not a path: what an OBJ file names besides (materials, pictures) is not opened.
            return trimesh.load_mesh(file, file_type=path.suffix.lower().lstrip("."))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from error
    except ValueError:
        raise
    except Exception as error:  # the parser's own errors are of many types
        raise ValueError(f"{path}: no mesh can be read from it: {type(error).__name__}: {error}") from error


def _check_convex(path: Path, mesh: Any, hull_volume: float) -> None:
    remedy = "give its convex parts as rules of their own, or convex_hull: true for the whole hull"
    if not mesh.is_watertight:
        raise ValueError(f"{path}: the mesh is not closed: {remedy}")
    share = abs(float(mesh.volume)) / hull_volume
    if share < _CONVEX_SHARE:
        raise ValueError(f"{path}: the mesh is not convex, it fills {share:.1%} of its convex hull: {remedy}")
