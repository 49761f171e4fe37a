"""The index of a folder of bags: what each episode is, kept in a file so that only new bags are read again.

A bag is known by its files' names, sizes and times of change. The file is written after each bag: who stops an
index of many bags goes on from there.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from PIL import Image
from rosbags.serde import SerdeError

from vlaforget_ros.episodes.catalogue.cadence import Cadence, cadence
from vlaforget_ros.episodes.catalogue.index_file import (
    BagLine,
    FileState,
    Header,
    ImageFacts,
    read_lines,
    write_lines,
)
from vlaforget_ros.episodes.catalogue.roles import roles
from vlaforget_ros.episodes.folders import find_bags, is_bag
from vlaforget_ros.episodes.mapped.mapping import TopicMapping
from vlaforget_ros.episodes.reader import merged, scan_episodes
from vlaforget_ros.episodes.storage.bags import Bag
from vlaforget_ros.episodes.types import NANOSECONDS, EpisodeInfo, Problem, ScanReport, TopicMap
from vlaforget_ros.errors import ErrorCode, UnlearningError, did_you_mean

HIDDEN = ".vlaforget"
FILE = "episodes.jsonl"

OnBag = Callable[[int, int, str], None]
"""Called with bags read, bags to be read, and the name of the bag that comes next; never when all are known."""


@dataclass(frozen=True, eq=False)
class IndexEntry:
    """One episode of an index.

    Attributes:
        info: what selection knows an episode by; its ``source`` is the path of the bag.
        problems: what is odd about this rollout.
        image: the bag's first image, None where there is none.
    """

    info: EpisodeInfo
    problems: tuple[Problem, ...]
    image: ImageFacts | None

    @property
    def start(self) -> datetime:
        """Stamp of the first frame (UTC); near 1970 where the robot's clock was a simulator's."""
        first = int(self.info.stamps_ns[0]) if len(self.info) else 0
        return datetime.fromtimestamp(first / NANOSECONDS, UTC)

    @property
    def cadence(self) -> Cadence:
        """Rate and gaps of the frames."""
        return cadence(self.info.stamps_ns)

    @property
    def health(self) -> tuple[str, ...]:
        """What is wrong with it, each a few words; empty when nothing is."""
        gaps = self.cadence
        found = [f"{gaps.gaps} gaps ({gaps.missing} frames)"] if gaps.gaps else []
        # Of a rollout that was recorded twice the whole recording counts: nothing is wrong with it.
        odd = [problem for problem in self.problems if problem.kind != "rollout_repeated"]
        return (*found, *(f"{problem.count} {problem.kind}" for problem in odd))


@dataclass(frozen=True, eq=False)
class Index:
    """What a folder of bags holds.

    Attributes:
        folder: what was indexed: a folder, or one bag.
        file: where the index lies.
        header: first line of the file.
        lines: one for each bag, in order of their paths.
        read: how many bags had to be read, the others were known already.
        gone: bags of the earlier index that are no longer there.
    """

    folder: Path
    file: Path
    header: Header
    lines: tuple[BagLine, ...]
    read: int = 0
    gone: tuple[str, ...] = ()
    _report: list[ScanReport] = field(default_factory=list)

    @property
    def unreadable(self) -> dict[Path, str]:
        """Bags of which nothing could be read, and why."""
        return {self.folder / line.bag: line.error for line in self.lines if line.error}

    def report(self) -> ScanReport:
        """As :func:`~vlaforget_ros.episodes.reader.scan_many` of all bags, without reading one.

        A rollout that is in two bags counts once, one that its bag lost something of not at all. Without any readable
        bag there are no episodes.
        """
        if not self._report:
            by_bag = {self.folder / line.bag: line for line in self.lines if not line.error}

            def known(bag: Path) -> ScanReport:
                whole = tuple(info for info in by_bag[bag].episodes_of(bag) if not info.damage)
                return ScanReport(by_bag[bag].problems_of(bag), whole)

            problems, episodes = merged(by_bag, known)
            failed = tuple(
                Problem("bag_unreadable", "", 1, error, str(bag)) for bag, error in self.unreadable.items()
            )
            self._report.append(ScanReport((*failed, *problems), episodes))
        return self._report[0]

    @property
    def episodes(self) -> list[IndexEntry]:
        """Every episode once, in order of the bags; also those that are damaged, which no set takes."""
        report = self.report()
        kept = {info.rollout_id: info for info in report.episodes}
        recorded = [info for line in self.lines for info in line.episodes_of(self.folder / line.bag)]
        for info in recorded:
            kept.setdefault(info.rollout_id, info)
        order = {(info.source, info.rollout_id): number for number, info in enumerate(recorded)}
        images = {str(self.folder / line.bag): line.image for line in self.lines}
        problems: dict[tuple[str, str], list[Problem]] = {}
        for problem in report.problems:
            problems.setdefault((problem.source, problem.rollout_id), []).append(problem)
        return [
            IndexEntry(e, tuple(problems.get((e.source, e.rollout_id), ())), images[e.source])
            for e in sorted(kept.values(), key=lambda info: order[info.source, info.rollout_id])
        ]


def index_path(place: Path) -> Path:
    """Where the index of a folder of bags lies, or of a single bag: then beside the bag, not in it."""
    if is_bag(place):
        return place.absolute().parent / HIDDEN / f"{place.absolute().name}.{FILE}"
    return place / HIDDEN / FILE


def build_index(
    folder: Path,
    topics: TopicMap | TopicMapping | None = None,
    *,
    out: Path | None = None,
    mapping: str = "",
    on_bag: OnBag | None = None,
    keep: bool = True,
) -> Index:
    """Bring the index of a folder up to date: read what is new or was changed, drop what is gone.

    Bags of which nothing can be read are in it with their error.

    Args:
        folder: folder of bags, or one bag.
        topics: names of the topics, as for ``scan_episodes``; or what ``read_mapping`` gives.
        out: where the index shall lie; by default :func:`index_path`.
        mapping: the file that ``topics`` came from, to be kept in the index.
        on_bag: see :data:`OnBag`.
        keep: False leaves the disk as it is.

    Raises:
        UnlearningError: 301 when there is no recording, 310 when the index cannot be written.
    """
    folder, wanted = Path(folder), topics or TopicMap()
    bags = find_bags([folder])
    file = out or index_path(folder)
    place = os.path.relpath(folder.absolute(), file.absolute().parent)
    header = Header(folder=place, mapping=str(Path(mapping).absolute()) if mapping else "")
    known, old = _earlier(file, header)
    states = {_relative(bag, folder): _states(bag) for bag in bags}
    lines = {name: old.get(name) for name in states}
    gone = tuple(name for name in old if name not in lines)
    texts = {name: line.model_dump_json() for name, line in lines.items() if line}
    stale = [name for name, line in lines.items() if not _holds(line, states[name], wanted)]
    for number, name in enumerate(stale):
        bag = folder / name
        if on_bag:
            on_bag(number, len(stale), bag.name)
        lines[name] = line = _line(bag, name, states[name], wanted)
        texts[name] = line.model_dump_json()
        if keep:
            write_lines(file, header, (texts[n] for n in lines if n in texts))
    if on_bag and stale:
        on_bag(len(stale), len(stale), "")
    if keep and not stale and (gone or known != header):
        write_lines(file, header, texts.values())
    return Index(folder, file, header, tuple(line for line in lines.values() if line), len(stale), gone)


def read_index(path: Path) -> Index:
    """An index as it was written, without looking at the bags.

    Args:
        path: the file, or the folder that was indexed.

    Raises:
        UnlearningError: 301 when it is missing, damaged or of another format.
    """
    path = Path(path)
    file = path if path.is_file() and not is_bag(path) else index_path(path)
    header, lines = read_lines(file)
    folder = path if file != path else Path(os.path.normpath(file.parent / header.folder))
    return Index(folder, file, header, tuple(lines))


def known_line(
    lines: Mapping[str, BagLine], name: str, bag: Path, topics: TopicMap | TopicMapping
) -> BagLine | None:
    """What an index knows of a bag, if it could be read and is still as it was; None otherwise."""
    line = lines.get(name)
    return line if line is not None and not line.error and _holds(line, _states(bag), topics) else None


def find_entry(entries: list[IndexEntry], rollout: str) -> IndexEntry:
    """The episode with this rollout id, or the only one whose id begins so.

    Raises:
        UnlearningError: 300 when there is none, or there are several.
    """
    exact = [entry for entry in entries if entry.info.rollout_id == rollout]
    found = exact or [entry for entry in entries if entry.info.rollout_id.startswith(rollout)]
    if len(found) == 1:
        return found[0]
    names = [entry.info.rollout_id for entry in found or entries]
    if found:
        more = f" and {len(names) - 12} more" if len(names) > 12 else ""
        raise UnlearningError(
            ErrorCode.UNLEARNING_BAD_REQUEST,
            f"{len(names)} rollouts begin with {rollout!r}",
            value=rollout,
            limit="one rollout",
            remedy=f"give more of its id; candidates: {', '.join(names[:12])}{more}",
        )
    raise UnlearningError(
        ErrorCode.UNLEARNING_BAD_REQUEST,
        "no such rollout",
        value=rollout,
        limit=f"one of {len(names)} rollouts of the index",
        remedy=did_you_mean(rollout, names) if len(names) <= 12 else "see `vlaforget episodes list`",
    )


def _earlier(file: Path, header: Header) -> tuple[Header | None, dict[str, BagLine]]:
    """The present index; nothing where it is missing, damaged, of another format or of another folder."""
    try:
        known, lines = read_lines(file)
    except UnlearningError:
        return None, {}
    return (known, {line.bag: line for line in lines}) if known.folder == header.folder else (None, {})


def _holds(line: BagLine | None, states: list[FileState], topics: TopicMap | TopicMapping) -> bool:
    """Whether what is known of a bag is still so."""
    return line is not None and line.files == states and bool(states) and line.topics == repr(topics)


def _line(bag: Path, name: str, states: list[FileState], topics: TopicMap | TopicMapping) -> BagLine:
    line = BagLine(bag=name, files=states, topics=repr(topics))
    try:
        report = scan_episodes(bag, topics, damaged=True)
        line.keep(report.problems, report.episodes)
        line.image = _first_image(bag, topics)
    except UnlearningError as error:
        line.error = str(error)
    return line


def _first_image(bag: Path, topics: TopicMap | TopicMapping) -> ImageFacts | None:
    with Bag(bag) as opened:
        topic = roles(opened, topics).image
        for message in opened.messages((topic,)):
            try:
                image = opened.deserialize(message)
                if not hasattr(image, "format"):
                    return ImageFacts(
                        topic=topic,
                        msgtype=message.msgtype,
                        width=image.width,
                        height=image.height,
                        encoding=image.encoding,
                    )
                with Image.open(io.BytesIO(bytes(image.data))) as picture:
                    width, height = picture.size
                return ImageFacts(
                    topic=topic, msgtype=message.msgtype, width=width, height=height, encoding=image.format
                )
            except (SerdeError, OSError):
                continue
    return None


def _states(bag: Path) -> list[FileState]:
    """State of the bag's files; of one that vanishes meanwhile nothing, so that the next index reads it again."""
    try:
        files = [bag] if bag.is_file() else sorted(path for path in bag.iterdir() if path.is_file())
        states = [file.stat() for file in files]
    except OSError:
        return []
    names = ("" if file == bag else file.name for file in files)
    return [(name, s.st_size, s.st_mtime_ns) for name, s in zip(names, states, strict=True)]


def _relative(bag: Path, folder: Path) -> str:
    return "." if bag == folder else bag.relative_to(folder).as_posix()
