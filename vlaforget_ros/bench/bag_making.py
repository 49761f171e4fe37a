"""Bags of a known size for the benchmarks: camera-like images with actions at 10 Hz, and copies in other forms."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from rosbags.rosbag2.enums import CompressionFormat, CompressionMode
from scipy import ndimage

from vlaforget_ros.episodes.writer import EpisodeWriter
from vlaforget_ros.errors import ErrorCode, UnlearningError

ROLLOUT_FRAMES = 200
"""Length of a rollout: 20 s."""
_PICTURES = 16
_ACTION = 7

Progress = Callable[[int, int], None]


def write_bag(path: Path, frames: int, size: int, seed: int, progress: Progress) -> None:
    """A bag as ``vlaforget record`` writes it: (size, size, 3) images, actions and poses in rollouts of 20 s.

    Args:
        path: folder to create.
        frames: of all rollouts together.
        size: of an image [px].
        seed: of pictures and actions.
        progress: called with (done, all).
    """
    generator = np.random.default_rng(seed)
    # Smooth with a little noise, as a camera's: neither constant nor incompressible.
    coarse = generator.uniform(0.0, 255.0, (_PICTURES, 8, 8, 3))
    smooth = ndimage.zoom(coarse, (1, size / 8, size / 8, 1), order=1)
    pictures = np.clip(smooth + generator.normal(0.0, 2.0, smooth.shape), 0, 255).astype(np.uint8)
    actions = generator.normal(size=(_PICTURES, _ACTION)).astype(np.float32)
    with EpisodeWriter(path) as writer:
        for frame in range(frames):
            if frame % ROLLOUT_FRAMES == 0:
                writer.begin(f"rollout-{frame // ROLLOUT_FRAMES}", "open the faucet")
            at = frame % _PICTURES
            writer.frame(pictures[at], actions[at] + np.float32(frame), ee_position=np.zeros(3))
            if (frame + 1) % ROLLOUT_FRAMES == 0 or frame + 1 == frames:
                writer.end(True)
                progress(frame + 1, frames)


def rewritten(source: Path, path: Path, packed: bool) -> Path:
    """The same messages as rosbags writes them: without checksums, or in chunks packed with zstd.

    Args:
        source: bag to copy.
        path: folder to create.
        packed: pack the chunks.
    """
    writer = Writer(path, version=9, storage_plugin=StoragePlugin.MCAP)
    if packed:
        writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
    with Reader(source) as reader, writer:
        known = {
            c.id: writer.add_connection(
                c.topic, c.msgtype, msgdef=c.msgdef.data, rihs01=c.digest or f"RIHS01_{0:064x}"
            )
            for c in reader.connections
        }
        for connection, time_ns, data in reader.messages():
            writer.write(known[connection.id], time_ns, data)
    return path


def frames_of_bytes(count: float, size: int) -> int:
    """Frames of which the images take so many bytes."""
    return max(1, round(count / (3 * size * size)))


def require_space(folder: Path, needed: float) -> None:
    """Whether a disk has room for so many bytes and some more.

    Raises:
        UnlearningError: 310.
    """
    free = shutil.disk_usage(folder).free
    if free < 1.2 * needed:
        raise UnlearningError(
            ErrorCode.UNLEARNING_BAG_UNWRITABLE,
            "no room for the bags of this benchmark",
            value=f"{free / 1e9:.1f} GB free in {folder}",
            limit=f"{1.2 * needed / 1e9:.1f} GB",
            remedy="name another --folder, or smaller --gb and --hours",
        )


def forget_cached(path: Path) -> None:
    """Take the files of a bag out of the page cache, so that they are read from the disk next."""
    for file in path.iterdir():
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def bytes_of(path: Path) -> int:
    """Of all files of a bag."""
    return sum(file.stat().st_size for file in path.iterdir())
