"""Episodes to a LeRobot data set (v3.0) that LeRobot itself loads.

LeRobot knows a frame by its number and a fixed rate, so ``timestamp`` is ``frame_index / fps``; the true stamps, and
whatever else it has no place for, go into ``meta/vlaforget.parquet``. The data set is there as a whole or not at all.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vlaforget_ros.episodes.lerobot import layout, statistics
from vlaforget_ros.episodes.lerobot.facts import row_of, write_facts
from vlaforget_ros.episodes.lerobot.features import (
    Shape,
    features_of,
    numbers,
    pictures,
    schema_of,
    tasks_table,
)
from vlaforget_ros.episodes.lerobot.layout import ACTION, STATE, SUCCESS, FileLimits
from vlaforget_ros.episodes.lerobot.rolling import Clips, Tables
from vlaforget_ros.episodes.lerobot.video import describe
from vlaforget_ros.episodes.types import NANOSECONDS, Episode, EpisodeInfo
from vlaforget_ros.errors import ErrorCode, UnlearningError

CAMERA = "observation.images."
_LISTED = 100
_LIMITS = FileLimits()


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        folder: of the data set.
        episodes: how many.
        frames: how many.
        tasks: how many different instructions.
        fps: frames a second.
        uneven: episodes whose frames do not lie on the regular rate by more than half a frame: LeRobot sees them as
            if they did.
    """

    folder: Path
    episodes: int
    frames: int
    tasks: int
    fps: int
    uneven: int


def rate_of(episodes: Iterable[EpisodeInfo]) -> int:
    """Frames a second as whole number: the median over all frames.

    Raises:
        UnlearningError: 300 when no episode has two frames, or the rate is below one half a second.
    """
    steps = [np.diff(episode.stamps_ns) for episode in episodes]
    together = np.concatenate(steps) if steps else np.zeros(0)
    rate = round(NANOSECONDS / float(np.median(together))) if len(together) else 0
    if rate < 1:
        value = f"{len(together)} pairs of frames"
        raise _bad("the rate of the frames is not known", value, "one frame a second or more", "give --fps")
    return rate


class LeRobotWriter:
    """Writes a data set episode by episode; use it as a context manager.

    Args:
        folder: to make.
        fps: frames a second.
        video: store mp4 (small, loses a little), else PNG (exact).
        cameras: names of the cameras, the main one first.
        outcomes: write ``next.success``; every episode must then have a verdict.
        robot: kind of robot, for ``info.json``.
        limits: sizes of the files.

    Raises:
        UnlearningError: 310 when the folder exists or cannot be made.
    """

    def __init__(
        self,
        folder: Path,
        fps: int,
        *,
        video: bool = True,
        cameras: tuple[str, ...] = ("image",),
        outcomes: bool = False,
        robot: str | None = None,
        limits: FileLimits = _LIMITS,
    ) -> None:
        self.folder = Path(folder)
        if self.folder.exists():
            raise _unwritable("the folder exists", self.folder, "choose another --out, or remove it")
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            self._part = Path(mkdtemp(prefix=f".{self.folder.name}.", dir=self.folder.parent))
            self._part.chmod(0o755)
            (self._part / "meta").mkdir()
        except OSError as error:
            raise _unwritable(f"the folder cannot be made: {error.strerror}", self.folder, "") from error
        self._fps, self._video, self._outcomes = fps, video, outcomes
        self._robot, self._limits = robot, limits
        self._cameras = tuple(CAMERA + name.strip("/").replace("/", "_") for name in cameras)
        self._shape: Shape | None = None
        self._features: dict[str, Any] = {}
        self._tasks: dict[str, int] = {}
        self._stats: dict[str, statistics.Stats] = {}
        self._facts: list[dict[str, object]] = []
        self._frames = self._uneven = 0
        self._data = Tables(self._part, layout.DATA_PATH, limits)
        self._list = Tables(self._part, layout.EPISODES_PATH, limits)
        self._listed: list[dict[str, Any]] = []
        self._clips: dict[str, Clips] = {}

    def add(self, episode: Episode) -> None:
        """Append an episode.

        Raises:
            UnlearningError: 300 for one without frames, without a verdict where ``outcomes`` is set, or of another
                shape than the first; 310 when the disk is full.
        """
        self._check(episode)
        number, count = len(self._facts), len(episode)
        task = self._tasks.setdefault(episode.instruction, len(self._tasks))
        columns = self._numbers(episode, number, task)
        stats = {name: statistics.of_numbers(values.reshape(count, -1)) for name, values in columns.items()}
        views = {name: episode.view(camera) for camera, name in enumerate(self._cameras)}
        stats |= {name: statistics.of_pictures(view) for name, view in views.items()}
        try:
            table = self._table(columns, views)
            place = self._data.make_room(table.nbytes)
            self._data.write(table)
            row = self._row(number, episode, place)
            for name, clips in self._clips.items():
                row |= clips.write(views[name])
            self._list_episode(row, stats)
        except OSError as error:
            text = f"the data set cannot be written: {error.strerror}"
            raise _unwritable(text, self.folder, "free some space") from error
        self._facts.append(row_of(number, episode))
        self._frames += count
        self._uneven += _is_uneven(episode, self._fps)
        for name, found in stats.items():
            known = self._stats.get(name)
            self._stats[name] = found if known is None else statistics.joined(known, found)

    def finish(self) -> Written:
        """Complete the data set.

        Raises:
            UnlearningError: 300 when it has no episode, 310 when the disk is full.
        """
        if not self._facts:
            self.abandon()
            raise _bad("no episodes to write", "0 episodes", "one or more", "loosen the selection")
        try:
            self._complete()
        except OSError as error:
            text = f"the data set cannot be written: {error.strerror}"
            raise _unwritable(text, self.folder, "free some space") from error
        return Written(self.folder, len(self._facts), self._frames, len(self._tasks), self._fps, self._uneven)

    def _complete(self) -> None:
        self._flush()
        self._close()
        for name, clips in self._clips.items():
            self._features[name]["info"] = describe(clips.first)
        meta = self._part / "meta"
        pq.write_table(tasks_table(list(self._tasks)), meta / layout.TASKS.name)
        stats = {name: {key: v.tolist() for key, v in found.items()} for name, found in self._stats.items()}
        _write_json(self._part / layout.STATS, stats)
        write_facts(self._part, self._facts)
        _write_json(self._part / layout.INFO, self._info())
        self._part.rename(self.folder)

    def abandon(self) -> None:
        """Remove what was written so far."""
        with suppress(OSError, ValueError):
            self._close()
        shutil.rmtree(self._part, ignore_errors=True)

    def _close(self) -> None:
        self._data.close()
        self._list.close()
        for clips in self._clips.values():
            clips.close()

    def _check(self, episode: Episode) -> None:
        if not len(episode):
            raise _bad("episode without frames", episode.rollout_id, "one frame or more", "leave it out")
        if self._outcomes and episode.success is None:
            raise _bad(
                "episode without a verdict", episode.rollout_id, "success or failure", "leave outcomes out"
            )
        state = 0 if episode.states is None else episode.states.shape[1]
        height, width = episode.images.shape[-3:-1]
        shape = Shape(height, width, episode.actions.shape[1], state)
        if episode.cameras != len(self._cameras):
            value = f"{episode.rollout_id}: {episode.cameras} camera(s)"
            raise _bad("another number of cameras than of names", value, str(len(self._cameras)), "name each")
        if self._shape is None:
            self._shape = shape
            self._features = features_of(shape, self._cameras, self._video, self._outcomes)
            if self._video:
                size = (height, width)
                self._clips = {
                    name: Clips(self._part, name, self._fps, size, self._limits) for name in self._cameras
                }
        elif shape != self._shape:
            value, limit = f"{episode.rollout_id}: {shape}", str(self._shape)
            raise _bad("episodes of one data set have one shape", value, limit, "export them apart")

    def _numbers(self, episode: Episode, number: int, task: int) -> dict[str, np.ndarray]:
        count = len(episode)
        frames = np.arange(count)
        columns: dict[str, np.ndarray] = {}
        if episode.states is not None:
            columns[STATE] = episode.states
        columns[ACTION] = episode.actions
        if self._outcomes:
            # True from the frame on with which it is reached: the last one, as nothing more exact is known.
            columns[SUCCESS] = (frames == count - 1) & bool(episode.success)
        return columns | {
            "timestamp": frames / self._fps,
            "frame_index": frames,
            "episode_index": np.full(count, number),
            "index": self._frames + frames,
            "task_index": np.full(count, task),
        }

    def _table(self, columns: dict[str, np.ndarray], views: dict[str, np.ndarray]) -> pa.Table:
        schema = schema_of(self._features)
        arrays = [
            pictures(views[field.name]) if field.name in views else numbers(columns[field.name], field.type)
            for field in schema
        ]
        return pa.Table.from_arrays(arrays, schema=schema)

    def _row(self, number: int, episode: Episode, place: tuple[int, int]) -> dict[str, Any]:
        return {
            "episode_index": number,
            "tasks": [episode.instruction],
            "length": len(episode),
            "data/chunk_index": place[0],
            "data/file_index": place[1],
            "dataset_from_index": self._frames,
            "dataset_to_index": self._frames + len(episode),
        }

    def _list_episode(self, row: dict[str, Any], stats: dict[str, statistics.Stats]) -> None:
        for name, found in stats.items():
            row |= {f"stats/{name}/{key}": values.tolist() for key, values in found.items()}
        self._listed.append(row)
        if len(self._listed) >= _LISTED:
            self._flush()

    def _flush(self) -> None:
        if not self._listed:
            return
        chunk, file = self._list.make_room(pa.Table.from_pylist(self._listed).nbytes)
        place = {"meta/episodes/chunk_index": chunk, "meta/episodes/file_index": file}
        self._list.write(pa.Table.from_pylist([row | place for row in self._listed]))
        self._listed = []

    def _info(self) -> dict[str, Any]:
        return {
            "codebase_version": layout.VERSION,
            "robot_type": self._robot,
            "total_episodes": len(self._facts),
            "total_frames": self._frames,
            "total_tasks": len(self._tasks),
            "chunks_size": self._limits.files,
            "data_files_size_in_mb": math.ceil(self._limits.data_mb),
            "video_files_size_in_mb": math.ceil(self._limits.video_mb),
            "fps": self._fps,
            "splits": {"train": f"0:{len(self._facts)}"},
            "data_path": layout.DATA_PATH,
            "video_path": layout.VIDEO_PATH if self._video else None,
            "features": self._features,
        }

    def __enter__(self) -> LeRobotWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._part.exists():
            self.abandon()


def write_lerobot(
    episodes: Iterable[Episode], folder: Path, fps: int, *, video: bool = True, **options: Any
) -> Written:
    """Write episodes as a data set.

    Args:
        episodes: taken one after the other; a generator needs memory for one only.
        folder: to make.
        fps: frames a second.
        video: as for :class:`LeRobotWriter`, like all further options.

    Raises:
        UnlearningError: as :class:`LeRobotWriter`.
    """
    with LeRobotWriter(folder, fps, video=video, **options) as writer:
        for episode in episodes:
            writer.add(episode)
        return writer.finish()


def _is_uneven(episode: Episode, fps: int) -> bool:
    regular = np.arange(len(episode)) * (NANOSECONDS / fps)
    return bool((np.abs(episode.stamps_ns - episode.stamps_ns[0] - regular) > NANOSECONDS / fps / 2).any())


def _write_json(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=4, ensure_ascii=False), encoding="utf-8")


def _bad(message: str, value: str, limit: str, remedy: str) -> UnlearningError:
    return UnlearningError(ErrorCode.UNLEARNING_BAD_REQUEST, message, value=value, limit=limit, remedy=remedy)


def _unwritable(message: str, folder: Path, remedy: str) -> UnlearningError:
    return UnlearningError(ErrorCode.UNLEARNING_BAG_UNWRITABLE, message, value=str(folder), remedy=remedy)
