"""Where there are recordings: rosbag2 folders and loose files below some folder."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from vlaforget_ros.episodes.lerobot.layout import is_lerobot
from vlaforget_ros.errors import ErrorCode, UnlearningError

STORAGE_SUFFIXES = (".mcap", ".db3", ".mcap.zstd", ".db3.zstd")
"""Last the files that rosbag2 compressed as a whole."""


def storage_of(path: Path) -> str:
    """``.mcap`` or ``.db3`` for a storage file, by its name; "" for any other file."""
    ending = next((suffix for suffix in STORAGE_SUFFIXES if path.name.endswith(suffix)), "")
    return ending.removesuffix(".zstd")


# Name of a part of a split bag, without its number.
_PART = re.compile(r"(.*?)(_\d+)?\.(mcap|db3)(\.zstd)?")


def is_bag(path: Path) -> bool:
    """Whether this is one recording: a storage file, a folder with metadata.yaml or the parts of one split bag, or a
    LeRobot data set.

    Storage files of different names, or beside folders with recordings, are recordings of their own.
    """
    if path.is_file():
        return bool(storage_of(path))
    if not path.is_dir():
        return False
    if (path / "metadata.yaml").is_file() or is_lerobot(path):
        return True
    children = [child for child in path.iterdir() if not _hidden(child)]
    parts = [_PART.fullmatch(child.name) for child in children if child.is_file()]
    names = {part[1] for part in parts if part}
    return len(names) == 1 and not any(_below(child) for child in children if child.is_dir())


def find_bags(places: Iterable[Path]) -> list[Path]:
    """Every recording at or below some folders, in order of their paths; each once.

    A folder whose only trace of a bag are loose files ``name_0``, ``name_1``, ... counts as one split bag: that is what
    rosbag2 leaves behind when it is killed.

    Raises:
        UnlearningError: 301 when a place does not exist, or there is no recording at all.
    """
    found: dict[Path, None] = {}
    places = [Path(place) for place in places]
    for place in places:
        if not place.exists():
            raise _nothing(f"no such folder: {place}", str(place))
        for bag in _below(place):
            found.setdefault(bag)
    if not found:
        raise _nothing("no recordings found", ", ".join(map(str, places)))
    return list(found)


def _below(place: Path) -> list[Path]:
    if is_bag(place):
        return [place]
    if not place.is_dir():
        return []
    return [bag for child in sorted(place.iterdir()) if not _hidden(child) for bag in _below(child)]


def _hidden(path: Path) -> bool:
    return path.name.startswith(".")


def _nothing(message: str, value: str) -> UnlearningError:
    return UnlearningError(
        ErrorCode.UNLEARNING_BAG_UNREADABLE,
        message,
        value=value,
        limit="rosbag2 folders, or .mcap or .db3 files",
        remedy="name the folder that `ros2 bag record` or `vlaforget record` wrote into",
    )
