"""A scan of bags that reads only those that no index knows as they are now."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from vlaforget_ros.episodes.catalogue.index import Index, index_path, known_line, read_index
from vlaforget_ros.episodes.catalogue.index_file import BagLine
from vlaforget_ros.episodes.mapped.mapping import TopicMapping
from vlaforget_ros.episodes.reader import merged, scan_episodes
from vlaforget_ros.episodes.types import ScanReport, TopicMap
from vlaforget_ros.errors import UnlearningError


def scan_known(
    bags: Iterable[Path], places: Sequence[Path], topics: TopicMap | TopicMapping | None = None
) -> tuple[ScanReport, int]:
    """As ``scan_many``; what the index of a place knows of a bag is taken from there, if no file of it has changed.

    Args:
        bags: found in ``places``.
        places: folders of bags, or bags; the index of a single bag's folder counts as well.
        topics: as for ``scan_many``. An index that was made for other topics is not used.

    Returns:
        the report, and how many bags were not read.

    Raises:
        UnlearningError: 301 when not one of the bags could be read.
    """
    wanted = topics or TopicMap()
    indexes = [found for place in places for found in _indexes(place)]
    known = 0

    def read(bag: Path) -> ScanReport:
        nonlocal known
        for index, lines in indexes:
            line = known_line(lines, _name(bag, index.folder), bag, wanted)
            if line is None:
                continue
            try:
                whole = tuple(info for info in line.episodes_of(bag) if not info.damage)
            except ValueError:
                # Somebody wrote in the index; the bag itself says what it holds.
                continue
            known += 1
            return ScanReport(line.problems_of(bag), whole)
        return scan_episodes(bag, wanted)

    problems, episodes = merged(bags, read)
    return ScanReport(problems, episodes), known


def _indexes(place: Path) -> list[tuple[Index, dict[str, BagLine]]]:
    """The readable ones of a place and of the folder above it."""
    found = []
    for folder in (place, place.absolute().parent):
        if not index_path(folder).is_file():
            continue
        try:
            index = read_index(folder)
        except UnlearningError:
            # It will be made anew by whoever keeps it; the bags are read meanwhile.
            continue
        found.append((index, {line.bag: line for line in index.lines}))
    return found


def _name(bag: Path, folder: Path) -> str:
    """Of a bag in the index of a folder; "" where it is not below it."""
    bag, folder = bag.absolute(), folder.absolute()
    if bag == folder:
        return "."
    return bag.relative_to(folder).as_posix() if bag.is_relative_to(folder) else ""
