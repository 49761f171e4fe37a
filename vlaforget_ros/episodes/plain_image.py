"""The common case of an image message, rgb8 or bgr8, told from its bytes, be they all there or not.

It takes no message object and no copy. Whatever is unusual is left to :func:`vlaforget_ros.episodes.images.decode`.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import NamedTuple

import numpy as np

_ENDS = {0: ">", 1: "<"}
_CHANNELS = 3
_HEADER = 16  # bytes up to the text of frame_id: encapsulation, stamp, length of the text
_ENCODINGS = {b"rgb8\0": False, b"bgr8\0": True}


class PlainImage(NamedTuple):
    """Where the pixels of a sensor_msgs/Image lie in its CDR bytes."""

    height: int
    width: int
    step: int
    start: int
    reversed: bool  # blue first

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the decoded image."""
        return (self.height, self.width, _CHANNELS)


def plain_image(data: bytes | memoryview, missing: int = 0) -> PlainImage | None:
    """Layout of a raw rgb8 or bgr8 image; None for anything else, and for what does not fit its own description.

    Args:
        data: CDR bytes of a sensor_msgs/Image, or their beginning.
        missing: bytes that are not among them.
    """
    if len(data) < _HEADER or data[0] != 0 or data[1] not in _ENDS:
        return None
    end = _ENDS[data[1]]
    (length,) = _uint32(end).unpack_from(data, 12)
    # Everything is aligned to four bytes, counted from behind the encapsulation.
    at = -(-(_HEADER + length) // 4) * 4
    layout = _layout(end)
    if length < 1 or len(data) < at + layout.size or data[_HEADER + length - 1] != 0:
        return None
    height, width, size, encoding, _, step, count = layout.unpack_from(data, at)
    start = at + layout.size
    if size != 5 or encoding not in _ENCODINGS or not height or not width or step < width * _CHANNELS:
        return None
    if count < height * step or not 0 <= len(data) + missing - start - count <= 3:
        return None
    # rosbags refuses a frame_id that is no text.
    try:
        bytes(data[_HEADER : _HEADER + length]).decode()
    except UnicodeDecodeError:
        return None
    return PlainImage(height, width, step, start, _ENCODINGS[encoding])


def pixels(data: bytes | memoryview, image: PlainImage) -> np.ndarray:
    """(H, W, 3) uint8 RGB: a read-only view of the message's bytes."""
    size = image.height * image.step
    rows = np.frombuffer(data, np.uint8, size, image.start).reshape(image.height, image.step)
    view = rows[:, : image.width * _CHANNELS].reshape(image.shape)
    return view[:, :, ::-1] if image.reversed else view


@lru_cache(maxsize=2)
def _uint32(end: str) -> struct.Struct:
    return struct.Struct(f"{end}I")


@lru_cache(maxsize=2)
def _layout(end: str) -> struct.Struct:
    """height, width; length and text of the encoding; is_bigendian; step; length of the data."""
    return struct.Struct(f"{end}III5sB2xII")
