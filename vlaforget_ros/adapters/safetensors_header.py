"""Checks on a safetensors file before any tensor is built from it.

Format: 8 bytes little-endian header length, a JSON header {name: {dtype, shape, data_offsets}}, the data.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vlaforget_ros.errors import AdapterError, ErrorCode

MAX_HEADER_BYTES = 8 * 1024 * 1024
MAX_TENSORS = 20_000
DTYPE_BYTES = {"F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True)
class TensorHeader:
    """What the header says about one tensor; ``start`` and ``end`` are byte offsets into the data."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def parse_header(data: bytes) -> dict[str, TensorHeader]:
    """Parse and check the header against the length of the file.

    Args:
        data: the whole file.

    Returns:
        name -> header of each tensor.

    Raises:
        AdapterError: 104 with what is wrong (length, JSON, type, shape, gaps or overlaps, missing data).
    """
    if len(data) < 8:
        raise bad_format("the file is shorter than a header", value=len(data), limit="8 bytes")
    length = int.from_bytes(data[:8], "little")
    if length > MAX_HEADER_BYTES or length > len(data) - 8:
        raise bad_format("header length", value=length, limit=min(MAX_HEADER_BYTES, len(data) - 8))
    entries = _json_object(data[8 : 8 + length])
    entries.pop("__metadata__", None)
    if len(entries) > MAX_TENSORS:
        raise bad_format("number of tensors", value=len(entries), limit=MAX_TENSORS)
    headers = {name: _tensor(name, entry) for name, entry in entries.items()}
    _check_layout(headers, len(data) - 8 - length)
    return headers


def bad_format(message: str, *, value: Any = None, limit: Any = None) -> AdapterError:
    """The error for a file that is not the plain adapter that it claims to be (104)."""
    return AdapterError(
        ErrorCode.ADAPTER_BAD_SHAPE,
        message,
        value=value,
        limit=limit,
        remedy="write the adapter again with vlaforget_ros or with PEFT as plain LoRA in safetensors",
    )


def _json_object(text: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(text.decode("utf-8"), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise bad_format(f"the header is not JSON ({error})") from error
    if not isinstance(parsed, dict):
        raise bad_format("the header is not a JSON object", value=type(parsed).__name__)
    return parsed


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _tensor(name: str, entry: Any) -> TensorHeader:
    if not isinstance(entry, Mapping) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise bad_format(f"header entry of {name}", value=entry)
    shape, offsets, dtype = entry["shape"], entry["data_offsets"], entry["dtype"]
    if dtype not in DTYPE_BYTES:
        raise bad_format(f"data type of {name}", value=dtype, limit=", ".join(DTYPE_BYTES))
    if not _naturals(shape) or not _naturals(offsets) or len(offsets) != 2:
        raise bad_format(f"shape or offsets of {name}", value=f"{shape}, {offsets}")
    start, end = offsets
    if end - start != math.prod(shape) * DTYPE_BYTES[dtype]:
        raise bad_format(f"bytes of {name}", value=end - start, limit=math.prod(shape) * DTYPE_BYTES[dtype])
    return TensorHeader(dtype, tuple(shape), start, end)


def _naturals(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**48 for value in values)


def _check_layout(headers: Mapping[str, TensorHeader], data_bytes: int) -> None:
    position = 0
    for name, header in sorted(headers.items(), key=lambda item: item[1].start):
        if header.start != position:
            raise bad_format(f"gap or overlap before {name}", value=header.start, limit=position)
        position = header.end
    if position != data_bytes:
        raise bad_format("length of the data", value=data_bytes, limit=position)
