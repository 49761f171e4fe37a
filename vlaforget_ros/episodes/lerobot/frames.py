"""The pictures of some frames, from every camera: frames that lack one are told apart, and nothing takes its place."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from vlaforget_ros.episodes.lerobot.layout import Entry
from vlaforget_ros.episodes.lerobot.rows import DataFile, Rows
from vlaforget_ros.episodes.lerobot.video import BrokenVideo, frames_at


class Album:
    """Pictures of ``count`` frames as they are decoded, straight into their place.

    Args:
        count: frames.
        cameras: how many.
        size: height and width to which pictures are scaled [px]; None keeps the size of the first one.
    """

    def __init__(self, count: int, cameras: int, size: tuple[int, int] | None) -> None:
        self._images: np.ndarray | None = None
        self._filled = np.zeros((count, cameras), dtype=bool)
        self._size = size
        self._scaled = size is not None
        self.other_size = 0

    def put(self, frame: int, camera: int, image: np.ndarray) -> None:
        """One picture, (H, W, 3) uint8 RGB."""
        if self._size is None:
            self._size = (image.shape[0], image.shape[1])
        if image.shape[:2] != self._size:
            if not self._scaled:
                self.other_size += 1
                return
            image = cv2.resize(image, self._size[::-1], interpolation=cv2.INTER_AREA)
        if self._images is None:
            self._images = np.zeros((*self._filled.shape, *self._size, 3), dtype=np.uint8)
        self._images[frame, camera] = image
        self._filled[frame, camera] = True

    @property
    def complete(self) -> np.ndarray:
        """(count,) which frames have a picture of every camera."""
        return np.asarray(self._filled.all(axis=1))

    def images(self, frames: np.ndarray) -> np.ndarray:
        """(K, H, W, 3) of these frames, (K, cameras, H, W, 3) where there are several cameras."""
        if self._images is None:
            return np.zeros((0, 0, 0, 3), dtype=np.uint8)
        images = self._images if len(frames) == len(self._images) else self._images[frames]
        return images[:, 0] if images.shape[1] == 1 else images


def fill(
    album: Album, cameras: tuple[str, ...], entry: Entry, rows: Rows, file: DataFile, folder: Path
) -> list[str]:
    """Decode the pictures of ``rows`` into the album.

    Returns:
        why a file could not be read, for each camera whose pictures are missing for that.
    """
    reasons = []
    for number, camera in enumerate(cameras):
        clip = entry.clips.get(camera)
        if clip is None:
            for position, picture in file.pictures(camera, rows, folder):
                if picture is not None:
                    album.put(position, number, picture)
            continue
        try:
            for position, picture in frames_at(clip.path, (clip.start_s + rows.seconds).tolist()):
                album.put(position, number, picture)
        except BrokenVideo as error:
            reasons.append(f"{camera}: {error}")
    return reasons
