"""Where there are recordings: rosbag2 folders and loose files below some folder."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from vlaforget_ros.errors import ErrorCode, UnlearningError

STORAGE_SUFFIXES = (".mcap", ".db3")
# Number of a part of a split bag.
_SPLIT = re.compile(r"_\d+$")


def is_bag(path: Path) -> bool:
    """Whether this is one recording: a storage file, or a folder with metadata.yaml or the parts of one split bag.

    Storage files of different names, or beside folders with recordings, are recordings of their own.
    """
    if path.is_file():
        return path.suffix in STORAGE_SUFFIXES
    if not path.is_dir():
        return False
    if (path / "metadata.yaml").is_file():
        return True
    children = list(path.iterdir())
    names = {_SPLIT.sub("", file.stem) for file in children if is_storage(file)}
    return len(names) == 1 and not any(
        _below(child) for child in children if child.is_dir() and not _hidden(child)
    )


def is_storage(path: Path) -> bool:
    """Whether this is a file as rosbag2 writes them."""
    return path.suffix in STORAGE_SUFFIXES and path.is_file()


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
