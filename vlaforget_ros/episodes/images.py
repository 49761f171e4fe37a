"""Image messages to RGB arrays and back.

Known encodings only: a guess would train the policy on wrong colours.
"""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from vlaforget_ros.episodes.messages import COMPRESSED_IMAGE, IMAGE, ns_to_stamp, typestore
from vlaforget_ros.episodes.sensor_encodings import SENSOR_ENCODINGS, WrongSize, sensor_image
from vlaforget_ros.errors import ErrorCode, UnlearningError

# Channels of each encoding, and where R, G and B are among them.
_ENCODINGS: dict[str, tuple[int, tuple[int, int, int]]] = {
    "rgb8": (3, (0, 1, 2)),
    "bgr8": (3, (2, 1, 0)),
    "rgba8": (4, (0, 1, 2)),
    "bgra8": (4, (2, 1, 0)),
    "mono8": (1, (0, 0, 0)),
}
_COMPRESSED = {"jpeg": "JPEG", "jpg": "JPEG", "png": "PNG"}


class BrokenImage(ValueError):
    """One image is damaged; the others may be fine."""


def header_stamp_ns(data: bytes | memoryview) -> int:
    """Stamp of a serialized message that begins with a std_msgs/Header, without reading the rest of it.

    Raises:
        BrokenImage: the bytes are too short.
    """
    try:
        seconds, nanoseconds = struct.unpack_from("<iI" if data[1] & 1 else ">iI", data, 4)
    except (struct.error, IndexError) as error:
        raise BrokenImage(f"{len(data)} bytes are no stamped message") from error
    return int(seconds) * 1_000_000_000 + int(nanoseconds)


def decode(message: Any, encoding: str = "") -> np.ndarray:
    """(H, W, 3) uint8 RGB from a sensor_msgs/Image or /CompressedImage.

    Args:
        message: as rosbags has it.
        encoding: of a raw image, in place of what it says itself.

    Raises:
        BrokenImage: the data do not fit their own description.
        UnlearningError: 301 for an encoding that is not known.
    """
    if hasattr(message, "format"):
        return _decode_compressed(message.format, bytes(message.data))
    return _decode_raw(message, encoding or message.encoding)


def _decode_raw(message: Any, encoding: str) -> np.ndarray:
    height, width, step = int(message.height), int(message.width), int(message.step)
    data = np.frombuffer(message.data, dtype=np.uint8)
    if encoding in SENSOR_ENCODINGS:
        try:
            return sensor_image(encoding, data, height, width, step)
        except WrongSize as error:
            raise BrokenImage(str(error)) from error
    if encoding not in _ENCODINGS:
        raise _unknown_encoding(encoding, (*_ENCODINGS, *SENSOR_ENCODINGS))
    channels, order = _ENCODINGS[encoding]
    if height == 0 or width == 0 or step < width * channels or len(data) < height * step:
        raise BrokenImage(f"{len(data)} bytes for {height} rows of {step} bytes, {width} px {encoding}")
    # Rows may be padded: `step` says how long they are.
    rows = data[: height * step].reshape(height, step)[:, : width * channels]
    pixels = rows.reshape(height, width, channels)
    # A list of channels copies pixel by pixel, and takes ten times as long as the views and copies in one go.
    if order == (0, 1, 2):
        return pixels[:, :, :3]
    return pixels[:, :, ::-1] if (channels, order) == (3, (2, 1, 0)) else pixels[:, :, order]


def _decode_compressed(described: str, data: bytes) -> np.ndarray:
    # "jpeg", "png", or as image_transport says it: "rgb8; jpeg compressed bgr8".
    words = described.replace(";", " ").lower().split()
    kinds = [_COMPRESSED[word] for word in words if word in _COMPRESSED]
    if not kinds or "compresseddepth" in words:
        raise _unknown_encoding(described, _COMPRESSED)
    try:
        with Image.open(io.BytesIO(data), formats=kinds) as picture:
            if picture.mode.startswith(("I", "F")):
                raise _unknown_encoding(f"{described}, {picture.mode}", ("8 bits a channel",))
            return np.asarray(picture.convert("RGB"))
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise BrokenImage(f"{len(data)} bytes are no {kinds[0]} picture: {error}") from error


def _unknown_encoding(value: str, known: Any) -> UnlearningError:
    return UnlearningError(
        ErrorCode.UNLEARNING_BAG_UNREADABLE,
        "image encoding not supported",
        value=repr(value),
        limit=", ".join(known),
        remedy="record a colour image in one of these encodings, or republish it with image_transport",
    )


def image_message(image: np.ndarray, stamp_ns: int, frame_id: str = "camera") -> object:
    """A sensor_msgs/Image (rgb8) from (H, W, 3) uint8 RGB."""
    types = typestore().types
    height, width, _ = image.shape
    header = types["std_msgs/msg/Header"](ns_to_stamp(stamp_ns), frame_id)
    flat = np.ascontiguousarray(image).reshape(-1)
    return types[IMAGE](header, height, width, "rgb8", 0, width * 3, flat)


def camera_message(image: np.ndarray, stamp_ns: int, kind: str = "", frame_id: str = "camera") -> object:
    """A message from (H, W, 3) uint8 RGB: raw where ``kind`` is "", else compressed as that."""
    if kind:
        return compressed_message(image, stamp_ns, kind, frame_id)
    return image_message(image, stamp_ns, frame_id)


def compressed_message(image: np.ndarray, stamp_ns: int, kind: str, frame_id: str = "camera") -> object:
    """A sensor_msgs/CompressedImage from (H, W, 3) uint8 RGB; ``kind``: ``jpeg`` (quality 95) or ``png``."""
    types = typestore().types
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, _COMPRESSED[kind], quality=95)
    header = types["std_msgs/msg/Header"](ns_to_stamp(stamp_ns), frame_id)
    return types[COMPRESSED_IMAGE](header, kind, np.frombuffer(buffer.getvalue(), dtype=np.uint8))
