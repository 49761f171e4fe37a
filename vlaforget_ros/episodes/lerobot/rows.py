"""The rows of one episode out of a parquet file that holds many; pictures only when they are asked for."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, UnidentifiedImageError

from vlaforget_ros.episodes.lerobot.index import FAULTS
from vlaforget_ros.episodes.lerobot.layout import ACTION, SUCCESS

_BATCH = 16


class BrokenPicture(ValueError):
    """One stored picture is damaged or missing; the others may be fine."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Numbers of T frames of one episode, in the order of the frames.

    Attributes:
        frame: (T,) ``frame_index``.
        seconds: (T,) ``timestamp`` [s].
        task: (T,) ``task_index``.
        actions: (T, A) float32.
        states: (T, P) float64, (T, 0) where none was asked for.
        success: (T,) ``next.success``, (T, 0) where there is no such column.
        group: (T,) row group of the file.
        row: (T,) row within the group.
        lost: row groups that might hold frames of it and cannot be read.
    """

    frame: np.ndarray
    seconds: np.ndarray
    task: np.ndarray
    actions: np.ndarray
    states: np.ndarray
    success: np.ndarray
    group: np.ndarray
    row: np.ndarray
    lost: int = 0

    def __len__(self) -> int:
        return len(self.frame)

    def take(self, positions: np.ndarray) -> Rows:
        """Some of the frames."""
        arrays = {f.name: getattr(self, f.name)[positions] for f in fields(self) if f.name != "lost"}
        return replace(self, **arrays)


class DataFile:
    """One file of ``data/``; use it as a context manager.

    Args:
        path: parquet file.
        state: column of the state, "" for none.

    Raises:
        OSError, ValueError, pyarrow.ArrowException: the file is missing, cut or no parquet file.
    """

    def __init__(self, path: Path, state: str = "") -> None:
        self._file = pq.ParquetFile(path, page_checksum_verification=True)
        self._state = state
        names = self._file.schema_arrow.names
        self._success = SUCCESS if SUCCESS in names else ""
        self._columns = ["frame_index", "episode_index", "timestamp", "task_index", ACTION]
        self._columns += [name for name in (state, self._success) if name]
        lacking = sorted(set(self._columns) - set(names))
        if lacking:
            raise ValueError(f"{path.name} has no column {', '.join(lacking)}")
        self._known: tuple[int, pa.Table] | None = None

    def rows(self, episode: int) -> Rows:
        """Numbers of one episode, from the row groups that can be read."""
        parts: list[Rows] = []
        lost = 0
        for group in self._groups(episode):
            try:
                table = self._group(group)
                mine = np.flatnonzero(_numbers(table, "episode_index")[:, 0] == episode)
                parts.append(self._rows(table.take(pa.array(mine)), group, mine))
            except FAULTS:
                lost += 1
        if not parts:
            nothing = np.zeros(0, dtype=np.int64)
            none = np.zeros((0, 0))
            return Rows(nothing, nothing, nothing, none, none, none, nothing, nothing, lost)
        names = [f.name for f in fields(Rows) if f.name != "lost"]
        joined = Rows(**{n: np.concatenate([getattr(part, n) for part in parts]) for n in names}, lost=lost)
        return joined.take(np.argsort(joined.frame, kind="stable"))

    def pictures(self, column: str, rows: Rows, folder: Path) -> Iterator[tuple[int, np.ndarray | None]]:
        """Pictures of an ``image`` feature.

        Yields:
            position in ``rows``, and (H, W, 3) uint8 RGB, or None for one that is damaged or missing.
        """
        for group in np.unique(rows.group).tolist():
            mine = np.flatnonzero(rows.group == group)
            where = {int(rows.row[position]): int(position) for position in mine}
            start, last = 0, max(where)
            try:
                for batch in self._file.iter_batches(_BATCH, row_groups=[group], columns=[column]):
                    for offset in range(batch.num_rows):
                        position = where.get(start + offset)
                        if position is not None:
                            yield position, _picture(batch[column][offset].as_py(), folder)
                    start += batch.num_rows
                    if start > last:
                        break
            except FAULTS:
                # Positions that were not reached stay without a picture.
                continue

    def _groups(self, episode: int) -> Iterator[int]:
        metadata = self._file.metadata
        # Columns of structures (pictures) count as several in the metadata.
        paths = [metadata.schema.column(number).path for number in range(metadata.num_columns)]
        column = paths.index("episode_index")
        for group in range(metadata.num_row_groups):
            known = metadata.row_group(group).column(column).statistics
            if known is None or not known.has_min_max or known.min <= episode <= known.max:
                yield group

    def _group(self, group: int) -> pa.Table:
        if self._known is None or self._known[0] != group:
            self._known = (group, self._file.read_row_group(group, columns=self._columns))
        return self._known[1]

    def _rows(self, table: pa.Table, group: int, mine: np.ndarray) -> Rows:
        count = len(mine)
        none = np.zeros((count, 0))
        return Rows(
            # A frame without a number becomes -1, which is none of the episode.
            frame=np.nan_to_num(_numbers(table, "frame_index")[:, 0], nan=-1).astype(np.int64),
            seconds=_numbers(table, "timestamp")[:, 0].astype(np.float64),
            task=np.nan_to_num(_numbers(table, "task_index")[:, 0], nan=-1).astype(np.int64),
            actions=_numbers(table, ACTION).astype(np.float32),
            states=_numbers(table, self._state).astype(np.float64) if self._state else none,
            success=_numbers(table, self._success) == 1 if self._success else none,
            group=np.full(count, group),
            row=mine,
        )

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> DataFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _numbers(table: pa.Table, column: str) -> np.ndarray:
    """(T, size) values of a column of numbers, or of lists that are all equally long."""
    values = table[column].combine_chunks()
    while pa.types.is_list(values.type) or pa.types.is_fixed_size_list(values.type):
        if values.null_count:
            raise ValueError(f"{column} has empty rows")
        values = values.flatten()
    count = table.num_rows
    if count and len(values) % count:
        raise ValueError(f"{column} has rows of different lengths")
    return values.to_numpy(zero_copy_only=False).reshape(count, -1 if count else 0)


def _picture(stored: object, folder: Path) -> np.ndarray | None:
    try:
        return decode_picture(stored, folder)
    except BrokenPicture:
        return None


def decode_picture(stored: object, folder: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB from a stored picture: its bytes, or the path of a file in the data set.

    Raises:
        BrokenPicture: it is damaged, missing, or lies outside of the data set.
    """
    if not isinstance(stored, dict):
        raise BrokenPicture(f"{type(stored).__name__} is no picture")
    data = stored.get("bytes")
    try:
        if data is None:
            path = (folder / str(stored.get("path"))).resolve()
            if not path.is_relative_to(folder.resolve()):
                raise BrokenPicture(f"{path} lies outside of the data set")
            data = path.read_bytes()
        with Image.open(io.BytesIO(data), formats=["PNG", "JPEG"]) as picture:
            if picture.mode.startswith(("I", "F")):
                raise BrokenPicture(f"{picture.mode} is no colour picture of 8 bits")
            return np.asarray(picture.convert("RGB"))
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError) as error:
        raise BrokenPicture(str(error)) from error
