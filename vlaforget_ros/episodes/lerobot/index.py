"""Which episodes a data set has, and where the rows and the video of each lie."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vlaforget_ros.episodes.lerobot import version2
from vlaforget_ros.episodes.lerobot.layout import EPISODES, TASKS, Clip, Entry, Info, file_of, unreadable
from vlaforget_ros.episodes.types import Problem

FAULTS = (OSError, pa.ArrowException, ValueError, KeyError, TypeError)
"""What a damaged parquet file raises."""


def read_tasks(folder: Path, info: Info) -> dict[int, str]:
    """Text of each ``task_index``.

    Raises:
        UnlearningError: 301 when the file is missing or damaged: no episode would have an instruction.
    """
    if info.is_version_2:
        return version2.read_tasks(folder)
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
    videos = [name for name in cameras if info.features[name].dtype == "video"]
    if info.is_version_2:
        listed, problems = version2.read_entries(folder, info, videos)
    else:
        listed, problems = _read_list(folder, info, videos)
    if not listed:
        value = problems[0].message if problems else "no file"
        limit = version2.EPISODES if info.is_version_2 else f"{EPISODES}/chunk-000/file-000.parquet"
        raise unreadable("the list of episodes cannot be read", value, str(limit))
    missing = info.total_episodes - len(listed)
    if missing > 0:
        text = f"{missing} of {info.total_episodes} episodes are not in the list of episodes"
        problems.append(Problem("episodes_not_listed", "", missing, text, str(folder)))
    return listed, problems


def _read_list(folder: Path, info: Info, videos: Sequence[str]) -> tuple[list[Entry], list[Problem]]:
    entries: dict[int, Entry] = {}
    problems: list[Problem] = []
    for path in sorted((folder / EPISODES).glob("*/*.parquet")):
        try:
            for row in _rows(path):
                entry = _entry(folder, info, videos, row)
                entries[entry.index] = entry
        except FAULTS as error:
            text = f"list of episodes cannot be read to its end: {_short(error)}"
            problems.append(Problem("episode_list_damaged", "", 1, text, str(path)))
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
        data=data,
        clips=clips,
        success=success if isinstance(success, bool) else None,
    )


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _short(error: Exception) -> str:
    return str(error).split("\n")[0][:200]
