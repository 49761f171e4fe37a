"""Recorded frames as training batches, from bags of any size in bounded memory.

A first walk through each bag reads everything but the images, and settles which frames there are: those that
:func:`read_episodes` finds, by the same rule. Every further walk reads just the images of the frames that were asked
for, each straight into its place in a batch. What is held in memory is some hundred bytes for each frame of the bags,
and two batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
from rosbags.rosbag2.errors import ReaderError

from vlaforget_ros.episodes.chunks import chunked
from vlaforget_ros.episodes.mapped.mapping import TopicMapping
from vlaforget_ros.episodes.plain_image import ImageInFile
from vlaforget_ros.episodes.reader import merged, read_episodes, scan_episodes, survey
from vlaforget_ros.episodes.selection import Selection, select
from vlaforget_ros.episodes.storage.bags import Bag
from vlaforget_ros.episodes.streaming.batches import Batch, BatchMaker, Frame
from vlaforget_ros.episodes.streaming.reels import Reel, reels
from vlaforget_ros.episodes.streaming.showing import Showing, rows_of
from vlaforget_ros.episodes.topics import resolve
from vlaforget_ros.episodes.types import Episode, EpisodeInfo, ScanReport, TopicMap
from vlaforget_ros.errors import ErrorCode, UnlearningError

_OPEN_BAGS = 100
"""How many bags are kept open, for images to be read from where they were seen; the others are walked through again."""

_MAPPED_FRAMES = 500
"""Of bags with a mapping, rollouts with so many frames are held at a time, or one that is longer."""


class BatchStream:
    """Frames of some bags in batches, in the order in which their images were recorded, bag by bag.

    Each iteration goes through the bags once more; what the first walk found stays known. Close it when the last one
    is done, or use it as a context manager.

    Args:
        bags: rosbag2 folders, or single .mcap or .db3 files. A rollout that is in two of them comes from the longer
            recording.
        topics: as for :func:`read_episodes`.
        batch: frames of a batch; the last one of a size may have fewer.
        chosen: which frames; a selection, or frame indices for each rollout id. All by default.
        chunk: control ticks of an answer, as for ``chunked``.

    Attributes:
        report: the episodes, and what was left out.
        lost: frames of the last iteration whose image turned out broken or missing only then.

    Raises:
        UnlearningError: 300 for frames that an episode does not have, 301 as :func:`read_many`.
    """

    def __init__(
        self,
        bags: Iterable[Path],
        topics: TopicMap | TopicMapping | None = None,
        *,
        batch: int = 64,
        chosen: Selection | Mapping[str, np.ndarray] | None = None,
        chunk: int = 1,
    ) -> None:
        self._topics = topics or TopicMap()
        self._batch, self._chunk = batch, chunk
        self._reels: dict[tuple[str, str], Reel] = {}
        self._open: dict[str, Bag] = {}
        self.report = ScanReport(*merged([Path(bag) for bag in bags], self._survey))
        self._frames = _frames(self.report.episodes, chosen)
        used = {(info.source, info.rollout_id) for info in self.report.episodes}
        self._reels = {key: reel for key, reel in self._reels.items() if key in used}
        self.lost = 0

    def __len__(self) -> int:
        """Frames of an iteration, as far as none is lost."""
        return sum(map(len, self._frames.values()))

    def __iter__(self) -> Iterator[Batch]:
        """Raises UnlearningError 301 for an image encoding that is not known, or a bag that has changed since."""
        self.lost = 0
        source = ""
        try:
            with BatchMaker(self._batch) as maker:
                for source in dict.fromkeys(info.source for info in self.report.episodes):
                    yield from self._bag(source, maker)
                yield from maker.rest()
        except ReaderError as error:
            raise UnlearningError(
                ErrorCode.UNLEARNING_BAG_UNREADABLE,
                f"bag has changed while it was read: {str(error).rstrip('.')}",
                value=source,
                remedy="let the recording end first",
            ) from error

    def __enter__(self) -> BatchStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the bags."""
        for bag in self._open.values():
            bag.close()
        self._open.clear()

    def _survey(self, path: Path) -> ScanReport:
        if isinstance(self._topics, TopicMapping):
            return scan_episodes(path, self._topics)
        bag = Bag(path)
        try:
            found = survey(bag, self._topics, beside=True)
        except UnlearningError:
            bag.close()
            raise
        made = reels(found, self._topics.stale_after_s)
        self._reels.update({(reel.info.source, reel.info.rollout_id): reel for reel in made})
        if made and len(self._open) < _OPEN_BAGS:
            self._open[str(path)] = bag
        else:
            bag.close()
        return ScanReport(found.problems, tuple(reel.info for reel in made))

    def _bag(self, path: str, maker: BatchMaker) -> Iterator[Batch]:
        if isinstance(self._topics, TopicMapping):
            yield from self._mapped(path, self._topics, maker)
            return
        wanted = [
            (self._reels[info.source, info.rollout_id], self._frames[info.rollout_id])
            for info in self.report.episodes
            if info.source == path and len(self._frames[info.rollout_id])
        ]
        if not wanted:
            return
        bag = self._open.get(path)
        if bag is None:
            with Bag(Path(path)) as again:
                yield from self._walk(again, wanted, maker)
                maker.settle()
        elif all(not reel.moments and reel.spots[indices, 1].min() >= 0 for reel, indices in wanted):
            yield from self._pick(wanted, maker)
        else:
            yield from self._walk(bag, wanted, maker)

    def _mapped(self, path: str, topics: TopicMapping, maker: BatchMaker) -> Iterator[Batch]:
        """Somebody else's bag, some rollouts at a time: what is held are their images."""
        infos = [i for i in self.report.episodes if i.source == path and len(self._frames[i.rollout_id])]
        while infos:
            part = infos[: _fitting(infos)]
            infos = infos[len(part) :]
            read = read_episodes(Path(path), topics, {info.rollout_id for info in part}).episodes
            found = {episode.rollout_id: chunked(episode, self._chunk) for episode in read}
            for info in part:
                episode = found.get(info.rollout_id)
                for index in self._frames[info.rollout_id].tolist():
                    frame = None if episode is None else _frame(episode, info, index)
                    if frame is None:
                        self.lost += 1
                    else:
                        yield from maker.add(frame)

    def _walk(self, bag: Bag, wanted: list[tuple[Reel, np.ndarray]], maker: BatchMaker) -> Iterator[Batch]:
        """Go through the images of a bag."""
        names = resolve(bag.topics, cast("TopicMap", self._topics), bag.path)
        showing = Showing(names, wanted)
        heads = (names.image, *names.cameras)
        for message in bag.messages((*heads, names.state), heads, showing.times):
            for reel, index, image, state in showing.take(bag, message):
                yield from maker.add(reel.frame(index, image, state, self._chunk))
        self.lost += showing.missing

    def _pick(self, wanted: list[tuple[Reel, np.ndarray]], maker: BatchMaker) -> Iterator[Batch]:
        """Read images whose places in the file are known."""
        for _, _, _, number, index in rows_of(wanted)[:-1].tolist():
            reel = wanted[number][0]
            file, at = reel.spots[index].tolist()
            image = ImageInFile(file, at, reel.shape or ())
            yield from maker.add(reel.frame(index, image, None, self._chunk))


def stream_batches(
    bags: Iterable[Path],
    topics: TopicMap | TopicMapping | None = None,
    *,
    batch: int = 64,
    chosen: Selection | Mapping[str, np.ndarray] | None = None,
    chunk: int = 1,
) -> Iterator[Batch]:
    """One iteration of a :class:`BatchStream`, which says what the arguments are and what is raised."""
    with BatchStream(bags, topics, batch=batch, chosen=chosen, chunk=chunk) as stream:
        yield from stream


def _fitting(infos: Sequence[EpisodeInfo]) -> int:
    """How many of the first rollouts are read at a time; at least one."""
    total = 0
    for count, info in enumerate(infos):
        total += len(info)
        if count and total > _MAPPED_FRAMES:
            return count
    return len(infos)


def _frame(episode: Episode, info: EpisodeInfo, index: int) -> Frame | None:
    """The frame that a scan knew by this index; None where its image turned out broken."""
    stamp = info.stamps_ns[index]
    at = int(np.searchsorted(episode.stamps_ns, stamp))
    if at == len(episode) or episode.stamps_ns[at] != stamp:
        return None
    state = None if episode.states is None else episode.states[at]
    return Frame(
        episode.images[at], episode.actions[at], episode.instruction, episode.rollout_id, index, state
    )


def _frames(
    episodes: Sequence[EpisodeInfo], chosen: Selection | Mapping[str, np.ndarray] | None
) -> dict[str, np.ndarray]:
    """Frame indices for each rollout."""
    everything = {info.rollout_id: np.arange(len(info), dtype=np.int64) for info in episodes}
    if chosen is None:
        return everything
    found = dict.fromkeys(everything, np.zeros(0, dtype=np.int64))
    if isinstance(chosen, Selection):
        # Selections ask for no more than an EpisodeInfo has.
        parts = select(cast("Sequence[Episode]", episodes), chosen)
        return found | {part.episode.rollout_id: part.indices for part in parts}
    for rollout, indices in chosen.items():
        wrong = np.setdiff1d(indices, everything.get(rollout, ()))
        if len(wrong):
            raise UnlearningError(
                ErrorCode.UNLEARNING_BAD_REQUEST,
                f"episode has no such frame: {rollout}",
                value=", ".join(map(str, wrong[:5])),
                limit=f"0 .. {len(everything[rollout]) - 1}" if rollout in everything else "no such episode",
            )
    return found | {rollout: np.unique(indices) for rollout, indices in chosen.items()}
