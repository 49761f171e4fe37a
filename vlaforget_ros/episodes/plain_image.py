"""The common case of an image message, rgb8 or bgr8, told from its bytes, be they all there or not.

It takes no message object and no copy. Whatever is unusual is left to :func:`vlaforget_ros.episodes.images.decode`.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from vlaforget_ros.episodes.messages import IMAGE
from vlaforget_ros.episodes.storage.message import Message, read_into

_ENDS = {0: ">", 1: "<"}
_CHANNELS = 3
_HEADER = 16  # bytes up to the text of frame_id: encapsulation, stamp, length of the text
_TOGETHER = 256
"""Images that are read with one call at most; systems allow twice as many parts and more."""
_GAP = 1 << 16
"""Bytes between two images that are rather read than skipped."""
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

    @property
    def dense(self) -> bool:
        """Whether the bytes are those of the decoded image as they are."""
        return self.step == self.width * _CHANNELS and not self.reversed


class PlainImages:
    """Tells the layout of the messages of one topic. They are alike as a rule: then it is told once."""

    def __init__(self) -> None:
        self._last: PlainImage | None = None
        self._alike: tuple[int, bytes, bytes] = (-1, b"", b"")

    def layout(self, message: Message) -> PlainImage | None:
        """Layout of a raw rgb8 or bgr8 image; None for anything else, and for what does not fit its own description.

        Args:
            message: of any type, or the beginning of one.
        """
        if message.msgtype != IMAGE:
            return None
        data, size = message.data, message.size
        # Of one size, and the same bytes up to the pixels but for the stamp.
        count, head, text = self._alike
        last = self._last
        if last is not None and size == count and data[:4] == head and data[12 : last.start] == text:
            return last
        plain = _layout_of(data, size)
        if plain is not None:
            self._last, self._alike = plain, (size, bytes(data[:4]), bytes(data[12 : plain.start]))
        return plain


def _layout_of(data: bytes | memoryview, size: int) -> PlainImage | None:
    if len(data) < _HEADER or data[0] != 0 or data[1] not in _ENDS:
        return None
    end = _ENDS[data[1]]
    (length,) = _uint32(end).unpack_from(data, 12)
    # Everything is aligned to four bytes, counted from behind the encapsulation.
    at = -(-(_HEADER + length) // 4) * 4
    layout = _layout(end)
    if length < 1 or len(data) < at + layout.size or data[_HEADER + length - 1] != 0:
        return None
    height, width, letters, encoding, _, step, count = layout.unpack_from(data, at)
    start = at + layout.size
    if letters != 5 or encoding not in _ENCODINGS or not height or not width or step < width * _CHANNELS:
        return None
    if count < height * step or not 0 <= size - start - count <= 3:
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


class UnreadImage(NamedTuple):
    """A plain image whose pixels may still lie in the file; good as long as the bag is open."""

    message: Message
    layout: PlainImage

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the decoded image."""
        return self.layout.shape

    def fill(self, into: np.ndarray) -> None:
        """Decode straight into a contiguous (H, W, 3) uint8 array. Raises ReaderError where bytes are missing."""
        if self.layout.dense:
            self.message.copy(self.layout.start, into)
        else:
            into[...] = pixels(self.message.whole().data, self.layout)

    def decoded(self) -> np.ndarray:
        """(H, W, 3) uint8. Raises ReaderError where bytes are missing."""
        image = np.empty(self.shape, dtype=np.uint8)
        self.fill(image)
        return image


class ImageInFile(NamedTuple):
    """The pixels of a dense image in an open file."""

    file: int
    at: int
    shape: tuple[int, ...]

    def fill(self, into: np.ndarray) -> None:
        """Read them straight into a contiguous uint8 array. Raises ReaderError where bytes are missing."""
        read_into(self.file, self.at, into.reshape(-1))


def fill_together(images: Sequence[ImageInFile], into: np.ndarray) -> None:
    """Read images, one behind the other in ``into``; what lies close together in a file with one call.

    Args:
        images: N of one shape.
        into: (N, ...) contiguous uint8.

    Raises:
        ReaderError: bytes are missing.
    """
    size = into[0].nbytes if len(into) else 0
    for start, end in _runs(images, size):
        parts: list[memoryview] = []
        at = images[start].at
        for row in range(start, end):
            gap = images[row].at - at
            parts += [memoryview(bytearray(gap))] if gap else []
            parts.append(into[row].reshape(-1).data)
            at += gap + size
        if os.preadv(images[start].file, parts, images[start].at) < at - images[start].at:
            # A read may be shorter than asked for: the next try goes on behind it.
            for row in range(start, end):
                images[row].fill(into[row])


def _runs(images: Sequence[ImageInFile], size: int) -> Iterator[tuple[int, int]]:
    """Rows of images that lie one behind the other, with little between them."""
    start = 0
    for row in range(1, len(images) + 1):
        ends = row == len(images) or row - start == _TOGETHER
        if not ends:
            gap = images[row].at - images[row - 1].at - size
            ends = images[row].file != images[row - 1].file or not 0 <= gap <= _GAP
        if ends:
            yield start, row
            start = row


@lru_cache(maxsize=2)
def _uint32(end: str) -> struct.Struct:
    return struct.Struct(f"{end}I")


@lru_cache(maxsize=2)
def _layout(end: str) -> struct.Struct:
    """height, width; length and text of the encoding; is_bigendian; step; length of the data."""
    return struct.Struct(f"{end}III5sB2xII")
