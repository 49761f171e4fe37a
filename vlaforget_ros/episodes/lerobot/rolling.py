"""Files that are followed by the next one when they have grown large: parquet with rows, mp4 with frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vlaforget_ros.episodes.lerobot.layout import VIDEO_PATH, FileLimits, file_of
from vlaforget_ros.episodes.lerobot.video import VideoWriter

_MIB = 1024 * 1024


class Tables:
    """Parquet files of one kind; each table becomes a row group, so that an episode can be read by itself.

    Args:
        folder: of the data set.
        template: of the paths.
        limits: sizes.
    """

    def __init__(self, folder: Path, template: str, limits: FileLimits) -> None:
        self._folder, self._template, self._limits = folder, template, limits
        self.place = (0, 0)
        self._sink: BinaryIO | None = None
        self._writer: pq.ParquetWriter | None = None

    def write(self, table: pa.Table) -> None:
        """Append a table to the file at ``place``, after :meth:`make_room`."""
        if self._writer is None:
            chunk, file = self.place
            path = file_of(self._folder, self._template, chunk_index=chunk, file_index=file)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._sink = path.open("wb")
            # Checksums, so that a flipped bit is found when the file is read.
            self._writer = pq.ParquetWriter(
                self._sink, table.schema, compression="snappy", write_page_checksum=True
            )
        self._writer.write_table(table)

    def make_room(self, size: int) -> tuple[int, int]:
        """Where the next table goes: a new file if about ``size`` bytes would make this one too large."""
        if self._sink is not None and self._sink.tell() + size >= self._limits.data_mb * _MIB:
            self.close()
            self.place = self._limits.after(self.place)
        return self.place

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.close()
        if self._sink is not None:
            self._sink.close()
        self._writer = self._sink = None


class Clips:
    """The mp4 files of one camera.

    Args:
        folder: of the data set.
        name: feature.
        fps: frames a second.
        size: height and width [px].
        limits: sizes.
    """

    def __init__(self, folder: Path, name: str, fps: int, size: tuple[int, int], limits: FileLimits) -> None:
        self._folder, self._name, self._fps, self._size = folder, name, fps, size
        self._limits = limits
        self._place = (0, 0)
        self._writer = VideoWriter(self._path(), fps, size)
        self.first = self._path()

    def write(self, images: np.ndarray) -> dict[str, Any]:
        """Append an episode's pictures.

        Returns:
            the columns of the list of episodes that say where they are.
        """
        if self._writer.frames and self._writer.bytes >= self._limits.video_mb * _MIB:
            self._writer.close()
            self._place = self._limits.after(self._place)
            self._writer = VideoWriter(self._path(), self._fps, self._size)
        first = self._writer.frames
        self._writer.add(images)
        return {
            f"videos/{self._name}/chunk_index": self._place[0],
            f"videos/{self._name}/file_index": self._place[1],
            f"videos/{self._name}/from_timestamp": first / self._fps,
            f"videos/{self._name}/to_timestamp": self._writer.frames / self._fps,
        }

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()

    def _path(self) -> Path:
        chunk, file = self._place
        return file_of(self._folder, VIDEO_PATH, video_key=self._name, chunk_index=chunk, file_index=file)
