"""What lies where in a LeRobot data set, as its ``meta/info.json`` says.

Version 3.0 (LeRobot 0.4 and later) keeps many episodes in one file::

    meta/info.json                               features, rate, paths, counts
    meta/stats.json                              statistics of every feature
    meta/tasks.parquet                           task text for each task_index
    meta/episodes/chunk-000/file-000.parquet     one row for each episode: where its rows and its video lie
    data/chunk-000/file-000.parquet              one row for each frame
    videos/<feature>/chunk-000/file-000.mp4      the pictures of a ``video`` feature; those of an ``image`` feature
                                                 lie in the rows

Versions 2.0 and 2.1 (LeRobot 0.1 to 0.3) have a parquet file and an mp4 of each camera for every episode, and their
lists as JSON lines.

Source: LeRobot's documentation of the format, and data sets that LeRobot 0.3.3, 0.4.4 and 0.6.2 wrote.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vlaforget_ros.errors import ErrorCode, UnlearningError

VERSION = "v3.0"
INFO = Path("meta/info.json")
STATS = Path("meta/stats.json")
TASKS = Path("meta/tasks.parquet")
EPISODES = Path("meta/episodes")
FACTS = Path("meta/vlaforget.parquet")
"""What this package knows of an episode and LeRobot has no place for; LeRobot does not look at the file."""

_FILE = "chunk-{chunk_index:03d}/file-{file_index:03d}"
EPISODES_PATH = f"meta/episodes/{_FILE}.parquet"
DATA_PATH = f"data/{_FILE}.parquet"
VIDEO_PATH = f"videos/{{video_key}}/{_FILE}.mp4"

ACTION = "action"
STATE = "observation.state"
SUCCESS = "next.success"
COUNTERS = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}
"""Columns that every data set has, one number a frame."""


@dataclass(frozen=True)
class FileLimits:
    """How large files may grow before the next one is begun; the values are LeRobot's own.

    Attributes:
        data_mb: of a parquet file [MiB].
        video_mb: of an mp4 file [MiB].
        files: in one chunk folder.
    """

    data_mb: float = 100
    video_mb: float = 200
    files: int = 1000

    def after(self, place: tuple[int, int]) -> tuple[int, int]:
        """Chunk and file that follow on another pair."""
        chunk, file = place
        return (chunk, file + 1) if file + 1 < self.files else (chunk + 1, 0)


@dataclass(frozen=True)
class Clip:
    """Part of a video.

    Attributes:
        path: the mp4 file.
        start_s: where the episode begins in it [s].
    """

    path: Path
    start_s: float


@dataclass(frozen=True)
class Entry:
    """One episode, as ``meta/episodes`` lists it.

    Attributes:
        index: ``episode_index``.
        length: how many frames it has.
        data: parquet file with its rows.
        clips: where the video of each ``video`` feature lies.
        success: a ``success`` that the list itself tells, None where it does not.
    """

    index: int
    length: int
    data: Path
    clips: Mapping[str, Clip]
    success: bool | None = None


class Feature(BaseModel):
    """One column, or one camera."""

    model_config = ConfigDict(extra="allow", frozen=True)

    dtype: str
    shape: tuple[int, ...] = ()
    names: Any = None
    info: dict[str, Any] | None = None

    @property
    def is_colour_camera(self) -> bool:
        """Whether it holds colour pictures; depth is no picture that a policy here is shown."""
        if self.dtype not in ("image", "video"):
            return False
        more = {**(self.info or {}), **(self.model_extra or {})}
        return not any(more.get(key) for key in ("is_depth_map", "video.is_depth_map"))


class Info(BaseModel):
    """``meta/info.json``, as far as it is needed to read the rest."""

    model_config = ConfigDict(extra="allow", frozen=True)

    codebase_version: str
    fps: float = Field(gt=0, allow_inf_nan=False)
    features: dict[str, Feature]
    total_episodes: int = Field(ge=0)
    total_frames: int = Field(ge=0)
    chunks_size: int = Field(default=1000, ge=1)
    data_path: str = DATA_PATH
    video_path: str | None = VIDEO_PATH

    @property
    def is_version_2(self) -> bool:
        """Whether every episode has files of its own, as before version 3."""
        return self.codebase_version.startswith("v2.")

    @property
    def cameras(self) -> list[str]:
        """Names of the features with colour pictures."""
        return [name for name, feature in self.features.items() if feature.is_colour_camera]


def is_lerobot(path: Path) -> bool:
    """Whether a folder is a LeRobot data set."""
    return (path / INFO).is_file()


def read_info(folder: Path) -> Info:
    """The description of a data set.

    Raises:
        UnlearningError: 301 when the file is missing or damaged, or of a version that is not known.
    """
    path = folder / INFO
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        version = str(document["codebase_version"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise unreadable("is no LeRobot data set", str(path), f"a readable {INFO}: {error}") from error
    if not version.startswith(("v2.", "v3.")):
        raise unreadable(
            "LeRobot data set of another version", version, f"{VERSION}, v2.1", "convert it with LeRobot"
        )
    try:
        return Info.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise unreadable(f"{INFO} is damaged", f"{where}: {first['msg']}", "a LeRobot data set") from error


def file_of(folder: Path, template: str, **values: Any) -> Path:
    """A file of the data set from its template.

    Raises:
        ValueError: the template is none, or leads out of the data set.
    """
    try:
        path = (folder / template.format(**values)).resolve()
    except (KeyError, IndexError, AttributeError, TypeError) as error:
        raise ValueError(f"{template!r} is no template of a path") from error
    if not path.is_relative_to(folder.resolve()):
        raise ValueError(f"{template!r} leads out of the data set")
    return path


def unreadable(message: str, value: str, limit: str, remedy: str = "") -> UnlearningError:
    """Error 301 about a data set as a whole."""
    return UnlearningError(
        ErrorCode.UNLEARNING_BAG_UNREADABLE,
        message,
        value=value,
        limit=limit,
        remedy=remedy
        or "name the folder that holds meta/, data/ and videos/, as it was downloaded or recorded",
    )
