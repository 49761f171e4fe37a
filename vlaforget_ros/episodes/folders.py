"""Where there are recordings: rosbag2 folders and loose files below some folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from vlaforget_ros.errors import ErrorCode, UnlearningError

STORAGE_SUFFIXES = (".mcap", ".db3", ".mcap.zstd", ".db3.zstd")
"""Last the files that rosbag2 compressed as a whole."""


def storage_of(path: Path) -> str:
    """``.mcap`` or ``.db3`` for a storage file, by its name; "" for any other file."""
    ending = next((suffix for suffix in STORAGE_SUFFIXES if path.name.endswith(suffix)), "")
    return ending.removesuffix(".zstd")


def is_bag(path: Path) -> bool:
    """Whether this is one recording: a storage file, or a folder with metadata.yaml or storage files in it."""
    if path.is_file():
        return bool(storage_of(path))
    if not path.is_dir():
        return False
    return (path / "metadata.yaml").is_file() or any(
        file.is_file() and storage_of(file) for file in path.iterdir()
    )


def find_bags(places: Iterable[Path]) -> list[Path]:
    """Every recording at or below some folders, in order of their paths; each once.

    A folder whose only trace of a bag are several loose files counts as one split bag: that is what rosbag2 leaves
    behind when it is killed.

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
    return [
        bag for child in sorted(place.iterdir()) if not child.name.startswith(".") for bag in _below(child)
    ]


def _nothing(message: str, value: str) -> UnlearningError:
    return UnlearningError(
        ErrorCode.UNLEARNING_BAG_UNREADABLE,
        message,
        value=value,
        limit="rosbag2 folders, or .mcap or .db3 files",
        remedy="name the folder that `ros2 bag record` or `vlaforget record` wrote into",
    )
