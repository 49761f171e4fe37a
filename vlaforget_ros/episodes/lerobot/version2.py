"""The list of episodes and tasks of versions 2.0 and 2.1, where every episode has files of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vlaforget_ros.episodes.lerobot.layout import Clip, Entry, Info, file_of, unreadable
from vlaforget_ros.episodes.types import Problem

TASKS = Path("meta/tasks.jsonl")
EPISODES = Path("meta/episodes.jsonl")
STATS = Path("meta/episodes_stats.jsonl")


def read_tasks(folder: Path) -> dict[int, str]:
    """Text of each ``task_index``.

    Raises:
        UnlearningError: 301 when the file is missing or damaged: no episode would have an instruction.
    """
    path = folder / TASKS
    try:
        return {int(line["task_index"]): str(line["task"]) for line in _lines(path)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise unreadable(
            "the tasks of the data set cannot be read", str(path), f"JSON lines: {error}"
        ) from error


def read_entries(folder: Path, info: Info, videos: Sequence[str]) -> tuple[list[Entry], list[Problem]]:
    """Every episode that is listed, up to the first line that is damaged.

    Args:
        folder: of the data set.
        info: its description.
        videos: features whose video is wanted.
    """
    entries: dict[int, Entry] = {}
    problems: list[Problem] = []
    path = folder / EPISODES
    try:
        for line in _lines(path):
            entry = _entry(folder, info, videos, line)
            entries[entry.index] = entry
    except (OSError, ValueError, KeyError, TypeError) as error:
        text = f"list of episodes cannot be read to its end: {error}"
        problems.append(Problem("episode_list_damaged", "", 1, text, str(path)))
    return [entries[index] for index in sorted(entries)], problems


def _entry(folder: Path, info: Info, videos: Sequence[str], line: dict[str, Any]) -> Entry:
    index = int(line["episode_index"])
    place = {"episode_index": index, "episode_chunk": index // info.chunks_size}
    return Entry(
        index=index,
        length=int(line["length"]),
        data=file_of(folder, info.data_path, **place),
        clips={
            name: Clip(file_of(folder, info.video_path or "", video_key=name, **place), 0.0)
            for name in videos
        },
    )


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.strip():
                yield json.loads(line)
