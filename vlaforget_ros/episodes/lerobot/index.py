"""Which episodes a data set has, and where the rows and the video of each lie."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vlaforget_ros.episodes.lerobot.layout import EPISODES, TASKS, Info, file_of, unreadable
from vlaforget_ros.episodes.types import Problem

FAULTS = (OSError, pa.ArrowException, ValueError, KeyError, TypeError)
"""What a damaged parquet file raises."""


@dataclass(frozen=True)
class Clip:
    """Part of a video.

    Attributes:
        path: the mp4 file.
        start_s: where the episode begins in it [s].
    """

    path: Path
    start_s: float


@dataclass(frozen=True)
class Entry:
    """One episode, as ``meta/episodes`` lists it.

    Attributes:
        index: ``episode_index``.
        length: how many frames it has.
        tasks: what was to be done; the frames say which of them when.
        data: parquet file with its rows.
        clips: where the video of each ``video`` feature lies.
        success: a ``success`` that the list itself tells, None where it does not.
    """

    index: int
    length: int
    tasks: tuple[str, ...]
    data: Path
    clips: Mapping[str, Clip]
    success: bool | None = None


def read_tasks(folder: Path) -> dict[int, str]:
    """Text of each ``task_index``.

    Raises:
        UnlearningError: 301 when the file is missing or damaged: no episode would have an instruction.
    """
    path = folder / TASKS
    try:
        table = pq.read_table(path, page_checksum_verification=True)
        # The text is the index of a pandas table, whose column has no fixed name.
        (text,) = [field.name for field in table.schema if _is_text(field.type)]
        return dict(zip(table["task_index"].to_pylist(), table[text].to_pylist(), strict=True))
    except FAULTS as error:
        raise unreadable(
            "the tasks of the data set cannot be read", str(path), f"parquet: {error}"
        ) from error


def read_entries(folder: Path, info: Info, cameras: Sequence[str]) -> tuple[list[Entry], list[Problem]]:
    """Every episode that is listed, in order, and what of the list cannot be read.

    Args:
        folder: of the data set.
        info: its description.
        cameras: features whose video is wanted.

    Raises:
        UnlearningError: 301 when nothing of the list can be read.
    """
    entries: dict[int, Entry] = {}
    problems: list[Problem] = []
    files = sorted((folder / EPISODES).glob("*/*.parquet"))
    videos = [name for name in cameras if info.features[name].dtype == "video"]
    for path in files:
        try:
            for row in _rows(path):
                entry = _entry(folder, info, videos, row)
                entries[entry.index] = entry
        except FAULTS as error:
            text = f"list of episodes cannot be read to its end: {_short(error)}"
            problems.append(Problem("episode_list_damaged", "", 1, text, str(path)))
    if not entries:
        value = problems[0].message if problems else "no file"
        raise unreadable(
            "the list of episodes cannot be read", value, f"{EPISODES}/chunk-000/file-000.parquet"
        )
    missing = info.total_episodes - len(entries)
    if missing > 0:
        text = f"{missing} of {info.total_episodes} episodes are not in the list of episodes"
        problems.append(Problem("episodes_not_listed", "", missing, text, str(folder)))
    return [entries[index] for index in sorted(entries)], problems


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        wanted = [name for name in file.schema_arrow.names if not name.startswith("stats/")]
        for group in range(file.num_row_groups):
            yield from file.read_row_group(group, columns=wanted).to_pylist()


def _entry(folder: Path, info: Info, videos: Sequence[str], row: Mapping[str, Any]) -> Entry:
    clips = {}
    for name in videos:
        place = {key: row[f"videos/{name}/{key}"] for key in ("chunk_index", "file_index")}
        path = file_of(folder, info.video_path or "", video_key=name, **place)
        clips[name] = Clip(path, float(row[f"videos/{name}/from_timestamp"]))
    data = file_of(
        folder, info.data_path, chunk_index=row["data/chunk_index"], file_index=row["data/file_index"]
    )
    success = row.get("success")
    return Entry(
        index=int(row["episode_index"]),
        length=int(row["length"]),
        tasks=tuple(map(str, row["tasks"])),
        data=data,
        clips=clips,
        success=success if isinstance(success, bool) else None,
    )


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _short(error: Exception) -> str:
    return str(error).split("\n")[0][:200]
