"""The index on disk: a text file with one line of JSON for each bag, after a line that says what it is.

``jq`` and ``grep`` can read it. Only the stamps are packed: their differences as 64-bit integers, deflated, in base64.
"""

from __future__ import annotations

import base64
import binascii
import os
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from vlaforget_ros.episodes.types import EpisodeInfo, Problem, Violation
from vlaforget_ros.errors import ErrorCode, UnlearningError

FORMAT = 1
"""Of the file; an index of another format is built anew."""

FileState = tuple[str, int, int]
"""Name of a bag's file relative to the bag, its size [bytes] and when it was changed last [ns]."""


class Header(BaseModel):
    """First line.

    Attributes:
        folder: what was indexed, relative to the file's folder: both may be moved together.
        mapping: topic mapping file that it was read with, "" for the names of the live graph.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["vlaforget episodes"] = "vlaforget episodes"
    format: int = FORMAT
    folder: str
    mapping: str = ""


class ImageFacts(BaseModel):
    """The first image of a bag: its topic and type, width and height [px], and how it is encoded."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    topic: str
    msgtype: str
    width: int
    height: int
    encoding: str


class _Violation(BaseModel):
    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="strings")

    rule: str
    severity: str
    stamp_ns: int
    value: float
    limit: float
    unit: str
    message: str


class _Problem(BaseModel):
    model_config = ConfigDict(extra="forbid")

    kind: str
    rollout: str
    count: int
    message: str


class _Episode(BaseModel):
    model_config = ConfigDict(extra="forbid")

    rollout: str
    instruction: str
    adapter: str
    success: bool | None
    phase: str
    frames: int
    start_ns: int
    stamps: str
    dropped: int
    damage: str = ""
    violations: list[_Violation]


class BagLine(BaseModel):
    """What is known of one bag.

    Attributes:
        bag: path relative to the indexed folder.
        files: state of its files when they were read.
        topics: which topic names it was read with.
        error: why nothing of it could be read, "" when it could.
        image: its first image, None where there is none that can be read.
    """

    model_config = ConfigDict(extra="forbid")

    bag: str
    files: list[FileState]
    topics: str
    error: str = ""
    image: ImageFacts | None = None
    problems: list[_Problem] = []
    episodes: list[_Episode] = []

    def keep(self, problems: Iterable[Problem], episodes: Iterable[EpisodeInfo]) -> None:
        """Take over what a scan found."""
        self.problems = [
            _Problem(kind=p.kind, rollout=p.rollout_id, count=p.count, message=p.message) for p in problems
        ]
        self.episodes = [_packed(info) for info in episodes]

    def problems_of(self, source: Path) -> tuple[Problem, ...]:
        """What was left out of the bag, which lies at ``source``."""
        return tuple(Problem(p.kind, p.rollout, p.count, p.message, str(source)) for p in self.problems)

    def episodes_of(self, source: Path) -> tuple[EpisodeInfo, ...]:
        """Its episodes, those that the bag lost something of among them.

        Raises:
            ValueError: the stamps are damaged.
        """
        return tuple(_unpacked(packed, str(source)) for packed in self.episodes)


def write_lines(path: Path, header: Header, lines: Iterable[str]) -> None:
    """Replace the index at once: a reader sees the old one or the new one.

    Raises:
        UnlearningError: 310 when it cannot be written.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_text("\n".join([header.model_dump_json(), *lines]) + "\n", encoding="utf-8")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UnlearningError(
            ErrorCode.UNLEARNING_BAG_UNWRITABLE,
            f"index cannot be written: {error.strerror or error}",
            value=str(path),
            limit="a folder that may be written to, on a disk with space",
            remedy="name another place with --out",
        ) from error


def read_lines(path: Path) -> tuple[Header, list[BagLine]]:
    """What an index file says.

    Raises:
        UnlearningError: 301 when it is missing, of another format or damaged.
    """
    try:
        first, *rest = path.read_text(encoding="utf-8").splitlines()
        header = Header.model_validate_json(first)
        if header.format != FORMAT:
            raise ValueError(f"format {header.format}, this version reads {FORMAT}")
        lines = [BagLine.model_validate_json(line) for line in rest]
        for line in lines:
            line.episodes_of(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
        raise UnlearningError(
            ErrorCode.UNLEARNING_BAG_UNREADABLE,
            f"index cannot be read: {reason}",
            value=str(path),
            limit="a file written by `vlaforget episodes index`",
            remedy="run `vlaforget episodes index` on the folder again",
        ) from error
    return header, lines


def _packed(info: EpisodeInfo) -> _Episode:
    stamps = np.asarray(info.stamps_ns, dtype=np.int64)
    steps = np.diff(stamps).astype("<i8").tobytes()
    return _Episode(
        rollout=info.rollout_id,
        instruction=info.instruction,
        adapter=info.adapter_digest,
        success=info.success,
        phase=str(info.phase),
        frames=len(stamps),
        start_ns=int(stamps[0]) if len(stamps) else 0,
        stamps=base64.b64encode(zlib.compress(steps)).decode(),
        dropped=info.dropped_frames,
        damage=info.damage,
        violations=[_Violation(**vars(violation)) for violation in info.violations],
    )


def _unpacked(packed: _Episode, source: str) -> EpisodeInfo:
    try:
        steps = np.frombuffer(zlib.decompress(base64.b64decode(packed.stamps)), dtype="<i8")
    except (binascii.Error, zlib.error) as error:
        raise ValueError(f"stamps of {packed.rollout} are damaged: {error}") from error
    if len(steps) != max(0, packed.frames - 1):
        raise ValueError(f"{packed.rollout} has {packed.frames} frames and {len(steps)} steps between them")
    stamps = packed.start_ns + np.concatenate([[0], np.cumsum(steps)]).astype(np.int64)
    return EpisodeInfo(
        rollout_id=packed.rollout,
        instruction=packed.instruction,
        adapter_digest=packed.adapter,
        stamps_ns=stamps[: packed.frames],
        success=packed.success,
        phase=packed.phase,
        violations=tuple(Violation(**violation.model_dump()) for violation in packed.violations),
        source=source,
        dropped_frames=packed.dropped,
        damage=packed.damage,
    )
