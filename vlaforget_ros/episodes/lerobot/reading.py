"""LeRobot data set to episodes.

What a data set does not know stays unknown: an episode without a verdict has ``success`` None, and its stamps count
from 1 s, as ``timestamp`` counts from its first frame. Whatever is damaged is left out and listed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from vlaforget_ros.episodes.lerobot import version2
from vlaforget_ros.episodes.lerobot.choosing import MAIN, choose_cameras, choose_state
from vlaforget_ros.episodes.lerobot.facts import Facts, read_facts
from vlaforget_ros.episodes.lerobot.frames import Album, fill
from vlaforget_ros.episodes.lerobot.index import FAULTS, read_entries, read_tasks
from vlaforget_ros.episodes.lerobot.layout import ACTION, INFO, STATS, Entry, Info, read_info, unreadable
from vlaforget_ros.episodes.lerobot.rows import DataFile, Rows
from vlaforget_ros.episodes.types import (
    NANOSECONDS,
    Episode,
    EpisodeInfo,
    EpisodeReport,
    Phase,
    Problem,
    ScanReport,
    TopicMap,
)

_GRID_S = 1e-3


class LeRobotReader:
    """A data set that is open for reading, episode by episode.

    Args:
        folder: that holds meta/, data/ and videos/.
        cameras: features, the main one first; the part after ``observation.images.`` is enough. Empty: the camera
            called ``image``, else the only one.
        further: cameras beside the main one, where ``cameras`` is empty.
        main: name of the main camera, where ``cameras`` is empty.
        state: feature of the state, "" for none.
        outcome: success of the episodes of which the data set does not say it; None leaves it unknown.
        size: height and width to which pictures are scaled [px], None for theirs.

    Raises:
        UnlearningError: 300 for cameras or a state that the data set does not have or that are not clear, 301 when it
            is missing, damaged as a whole, or of a version that is not known.
    """

    def __init__(
        self,
        folder: Path,
        *,
        cameras: Sequence[str] = (),
        further: Sequence[str] = (),
        main: str = MAIN,
        state: str = "",
        outcome: bool | None = None,
        size: tuple[int, int] | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.info: Info = read_info(self.folder)
        self.cameras = choose_cameras(self.info, cameras, further, main)
        self.state = choose_state(self.info, state)
        if ACTION not in self.info.features:
            known = ", ".join(self.info.features)
            raise unreadable(f"the data set has no {ACTION}", known, ACTION, "choose one with actions")
        self._tasks = read_tasks(self.folder, self.info)
        entries, self.problems = read_entries(self.folder, self.info, self.cameras)
        self._entries = {entry.index: entry for entry in entries}
        self._facts, problems = read_facts(self.folder)
        self.problems += problems
        self._outcome, self._size = outcome, size
        self._prefix = f"lerobot-{_digest(self.folder)}"

    @property
    def indices(self) -> list[int]:
        """``episode_index`` of every episode that is listed."""
        return list(self._entries)

    def scan(self, indices: Iterable[int] | None = None) -> Iterator[EpisodeInfo]:
        """What is known of the episodes without their pictures."""
        for _, _, _, known in self._parts(indices, None):
            yield known

    def read(
        self, indices: Iterable[int] | None = None, rollouts: Collection[str] | None = None
    ) -> Iterator[Episode]:
        """Episodes one after the other; only one is held in memory.

        An episode whose frames have several tasks becomes several, cut where the task changes. What had to be left
        out is in ``problems`` once the episode was passed.

        Args:
            indices: ``episode_index`` of those to read; all by default.
            rollouts: ids of those to read; all by default.
        """
        for file, entry, rows, known in self._parts(indices, rollouts):
            album = Album(len(rows), len(self.cameras), self._size)
            reasons = fill(album, self.cameras, entry, rows, file, self.folder)
            kept = np.flatnonzero(album.complete)
            self._note_pictures(known.rollout_id, album, len(rows) - len(kept), reasons)
            if not len(kept):
                self._problem("episode_empty", known.rollout_id, 1, "episode without a single frame")
                continue
            yield Episode(
                **{**vars(known), "stamps_ns": known.stamps_ns[kept]}
                | {"dropped_frames": known.dropped_frames + len(rows) - len(kept)},
                images=album.images(kept),
                actions=rows.actions[kept],
                states=rows.states[kept] if self.state else None,
            )

    def _parts(
        self, indices: Iterable[int] | None, rollouts: Collection[str] | None
    ) -> Iterator[tuple[DataFile, Entry, Rows, EpisodeInfo]]:
        wanted = list(self._entries) if indices is None else list(indices)
        unknown = [index for index in wanted if index not in self._entries]
        for index in unknown:
            self._problem("episode_unknown", self._id(index), 1, f"episode {index} is not in the data set")
        entries = [self._entries[index] for index in wanted if index in self._entries]
        if rollouts is not None:
            # A part of an episode has the id of the episode and a number.
            entries = [e for e in entries if any(r.startswith(self._id(e.index)) for r in rollouts)]
        for path in dict.fromkeys(entry.data for entry in entries):
            mine = [entry for entry in entries if entry.data == path]
            try:
                file = DataFile(path, self.state)
            except FAULTS as error:
                text = f"{path.name} cannot be read: {str(error)[:160]}"
                for entry in mine:
                    self._problem("data_unreadable", self._id(entry.index), 1, text)
                continue
            with file:
                for entry in mine:
                    for rows, known in self._episodes(file, entry):
                        if rollouts is None or known.rollout_id in rollouts:
                            yield file, entry, rows, known

    def _episodes(self, file: DataFile, entry: Entry) -> Iterator[tuple[Rows, EpisodeInfo]]:
        rows = file.rows(entry.index)
        name = self._id(entry.index)
        lacking = entry.length - len(rows)
        if lacking:
            text = f"{len(rows)} frames where {entry.length} are listed"
            self._problem("frames_missing" if lacking > 0 else "frames_not_listed", name, abs(lacking), text)
        facts = self._facts.get(entry.index)
        if facts is not None and (len(facts.stamps_ns) != entry.length or lacking < 0):
            self._problem("facts_unfit", name, 1, "meta/vlaforget.parquet is of another data set")
            facts = None
        usable = self._usable(rows, entry.length, name)
        success = self._success(entry, rows, facts)
        rows = rows.take(usable)
        cuts = np.flatnonzero(np.diff(rows.task)) + 1
        parts = np.split(np.arange(len(rows)), cuts) if len(rows) else []
        dropped = max(lacking, 0) + int((~usable).sum())
        if not parts:
            self._problem("episode_empty", name, 1, "episode without a single frame")
        for number, positions in enumerate(parts):
            last = number == len(parts) - 1
            part = rows.take(positions)
            # What the end of the episode says is said of its last task.
            known = self._known(entry, part, facts, success if last else None, dropped if last else 0)
            if len(parts) > 1:
                known = EpisodeInfo(**{**vars(known), "rollout_id": f"{known.rollout_id}-{number}"})
            yield part, known

    def _known(
        self, entry: Entry, rows: Rows, facts: Facts | None, success: bool | None, dropped: int
    ) -> EpisodeInfo:
        phase = {True: Phase.SUCCEEDED, False: Phase.FAILED, None: Phase.ABORTED}[success]
        task = int(rows.task[0])
        if task not in self._tasks:
            text = f"task {task} has no text: the episode has no instruction"
            self._problem("task_unknown", self._id(entry.index), 1, text)
        return EpisodeInfo(
            rollout_id=self._id(entry.index),
            instruction=self._tasks.get(task, ""),
            adapter_digest=facts.adapter_digest if facts else "",
            stamps_ns=facts.stamps_ns[rows.frame] if facts else self._stamps(rows),
            success=success,
            phase=facts.phase if facts and facts.success is success else str(phase),
            violations=facts.violations if facts else (),
            source=str(self.folder),
            dropped_frames=dropped + (facts.dropped_frames if facts else 0),
        )

    def _stamps(self, rows: Rows) -> np.ndarray:
        """Seconds as nanoseconds; where they are those of the regular rate, without the rounding of float32."""
        regular = rows.frame / self.info.fps
        on_grid = np.abs(rows.seconds - regular) <= _GRID_S
        seconds = np.where(on_grid, regular, rows.seconds)
        return NANOSECONDS + np.rint(seconds * NANOSECONDS).astype(np.int64)

    def _success(self, entry: Entry, rows: Rows, facts: Facts | None) -> bool | None:
        said = facts.success if facts else entry.success
        if said is None and facts is None and rows.success.size:
            said = bool(rows.success.any())
        return self._outcome if said is None else said

    def _usable(self, rows: Rows, length: int, name: str) -> np.ndarray:
        finite = np.isfinite(rows.actions).all(axis=1) & np.isfinite(rows.states).all(axis=1)
        known = np.isfinite(rows.seconds) & (rows.frame >= 0) & (rows.frame < max(length, len(rows)))
        highest = np.maximum.accumulate(np.concatenate([[-np.inf], np.where(known, rows.seconds, -np.inf)]))
        grows = known & (rows.seconds > highest[:-1])
        for kind, wrong, text in (
            ("actions_non_finite", ~finite, "frames whose action or state is not finite"),
            ("frames_out_of_order", ~grows, "frames whose time does not grow"),
        ):
            if wrong.any():
                self._problem(kind, name, int(wrong.sum()), f"{int(wrong.sum())} {text}")
        return np.asarray(finite & grows)

    def _note_pictures(self, name: str, album: Album, missing: int, reasons: list[str]) -> None:
        if album.other_size:
            text = f"{album.other_size} images of another size than the first"
            self._problem("images_other_size", name, album.other_size, text)
        for reason in reasons:
            self._problem("video_unreadable", name, 1, reason)
        if missing:
            text = f"{missing} frames without a whole picture of every camera"
            self._problem("frames_without_image", name, missing, text)

    def _id(self, index: int) -> str:
        facts = self._facts.get(index)
        return facts.rollout_id if facts else f"{self._prefix}-{index:06d}"

    def _problem(self, kind: str, rollout_id: str, count: int, message: str) -> None:
        self.problems.append(Problem(kind, rollout_id, count, message, str(self.folder)))


def read_lerobot(
    folder: Path,
    *,
    cameras: Sequence[str] = (),
    state: str = "",
    episodes: Iterable[int] | None = None,
    rollouts: Collection[str] | None = None,
    outcome: bool | None = None,
    size: tuple[int, int] | None = None,
) -> EpisodeReport:
    """Episodes of a LeRobot data set (v3, or v2), all in memory.

    Args:
        folder: of the data set.
        cameras: as for :class:`LeRobotReader`, like ``state``, ``outcome`` and ``size``.
        state: see there.
        episodes: ``episode_index`` of those to read; all by default.
        rollouts: ids of those to read; all by default.
        outcome: see there.
        size: see there.

    Raises:
        UnlearningError: as :class:`LeRobotReader`.
    """
    reader = LeRobotReader(folder, cameras=cameras, state=state, outcome=outcome, size=size)
    found = tuple(reader.read(episodes, rollouts))
    return EpisodeReport(tuple(reader.problems), found)


def read_as_bag(folder: Path, topics: TopicMap, rollouts: Collection[str] | None = None) -> EpisodeReport:
    """A data set where a bag is expected: names of topics are taken as names of features.

    The main camera is the feature called as the image topic (``observation.images.image``), else the only one. A state
    that is asked for is the feature of that name, else ``observation.state``.

    Raises:
        UnlearningError: as :class:`LeRobotReader`.
    """
    reader = _for_topics(folder, topics)
    found = tuple(reader.read(None, rollouts))
    return EpisodeReport(tuple(reader.problems), found)


def scan_as_bag(folder: Path, topics: TopicMap) -> ScanReport:
    """As :func:`read_as_bag`, without decoding a picture."""
    reader = _for_topics(folder, topics)
    found = tuple(reader.scan())
    return ScanReport(tuple(reader.problems), found)


def _for_topics(folder: Path, topics: TopicMap) -> LeRobotReader:
    return LeRobotReader(folder, further=topics.cameras, main=topics.image, state=topics.state)


def _digest(folder: Path) -> str:
    """Eight digits that tell data sets apart and stay when one is moved."""
    sha = hashlib.sha256((folder / INFO).read_bytes())
    for name in (STATS, version2.STATS):
        if (folder / name).is_file():
            sha.update((folder / name).read_bytes())
    return sha.hexdigest()[:8]
