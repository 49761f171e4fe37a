"""Columns of a data set that is written: their kinds in ``info.json``, and the schema of the parquet files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pyarrow as pa

from vlaforget_ros.episodes.lerobot.layout import ACTION, COUNTERS, STATE, SUCCESS

_ARROW = {"float32": pa.float32(), "float64": pa.float64(), "int64": pa.int64(), "bool": pa.bool_()}
_PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@dataclass(frozen=True)
class Shape:
    """What all episodes of a data set have in common.

    Attributes:
        height: of the pictures [px].
        width: of the pictures [px].
        action: numbers of an action.
        state: numbers of a state, 0 for none.
    """

    height: int
    width: int
    action: int
    state: int

    def __str__(self) -> str:
        return f"images {self.height}x{self.width}, {self.action} actions, state of {self.state}"


def features_of(shape: Shape, cameras: tuple[str, ...], video: bool, outcomes: bool) -> dict[str, Any]:
    """``features`` of ``info.json``, in the order of the columns."""
    camera = {
        "dtype": "video" if video else "image",
        "shape": [shape.height, shape.width, 3],
        "names": ["height", "width", "channels"],
    }
    features: dict[str, Any] = {name: dict(camera) for name in cameras}
    if shape.state:
        # As in the bag: nothing is rounded.
        features[STATE] = {"dtype": "float64", "shape": [shape.state], "names": None}
    features[ACTION] = {"dtype": "float32", "shape": [shape.action], "names": None}
    if outcomes:
        features[SUCCESS] = {"dtype": "bool", "shape": [1], "names": None}
    for name, kind in COUNTERS.items():
        features[name] = {"dtype": kind, "shape": [1], "names": None}
    return features


def schema_of(features: dict[str, Any]) -> pa.Schema:
    """Schema of ``data/``, with the note by which the `datasets` library knows pictures from structures."""
    columns: list[tuple[str, pa.DataType]] = []
    known: dict[str, Any] = {}
    for name, feature in features.items():
        if feature["dtype"] == "video":
            continue
        if feature["dtype"] == "image":
            columns.append((name, _PICTURE))
            known[name] = {"_type": "Image"}
            continue
        value = {"dtype": feature["dtype"], "_type": "Value"}
        size, kind = feature["shape"][0], _ARROW[feature["dtype"]]
        if name in (ACTION, STATE) and size > 1:
            columns.append((name, pa.list_(kind, size)))
            known[name] = {"feature": value, "length": size, "_type": "List"}
        else:
            columns.append((name, kind))
            known[name] = value
    note = json.dumps({"info": {"features": known}})
    return pa.schema(columns, metadata={"huggingface": note})


def tasks_table(tasks: list[str]) -> pa.Table:
    """``meta/tasks.parquet``: numbers, indexed by their text, as pandas reads an index."""
    column = {"field_name": None, "metadata": None}
    note = {
        "index_columns": ["task"],
        "column_indexes": [
            {**column, "name": None, "pandas_type": "unicode", "numpy_type": "object"},
        ],
        "columns": [
            {**column, "name": "task_index", "field_name": "task_index", "pandas_type": "int64"}
            | {"numpy_type": "int64"},
            {
                **column,
                "name": "task",
                "field_name": "task",
                "pandas_type": "unicode",
                "numpy_type": "object",
            },
        ],
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.0.0",
    }
    fields = [("task_index", pa.int64()), ("task", pa.string())]
    schema = pa.schema(fields, metadata={"pandas": json.dumps(note)})
    return pa.Table.from_pydict({"task_index": list(range(len(tasks))), "task": tasks}, schema=schema)


def pictures(images: np.ndarray) -> pa.Array:
    """A column of (T, H, W, 3) uint8 pictures as PNG, which loses nothing."""
    rows = []
    for number, image in enumerate(images):
        # Quick rather than small: level 6 takes six times as long for a tenth less.
        _, encoded = cv2.imencode(".png", image[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])
        rows.append({"bytes": encoded.tobytes(), "path": f"frame-{number:06d}.png"})
    return pa.array(rows, _PICTURE)


def numbers(values: np.ndarray, kind: pa.DataType) -> pa.Array:
    """A column of (T,) or (T, size) numbers."""
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(
            pa.array(values.reshape(-1), kind.value_type), kind.list_size
        )
    return pa.array(values.reshape(-1), kind)
