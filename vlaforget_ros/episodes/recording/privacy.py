"""Parts of images that are not to reach the disk: masked in the message's bytes before anything is written.

A mask that cannot be applied is an error, and what it was meant for is not written: a picture of a person that was
not recorded can be recorded again, one that was recorded and copied cannot be taken back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import cv2
import numpy as np
from rosbags.serde import SerdeError

from vlaforget_ros.episodes.messages import COMPRESSED_IMAGE, IMAGE, typestore
from vlaforget_ros.errors import ErrorCode, UnlearningError, did_you_mean

# Channels and numbers of a pixel, as sensor_msgs/image_encodings.hpp has them.
_ENCODINGS: dict[str, tuple[int, str]] = {
    **dict.fromkeys(("rgb8", "bgr8", "8UC3"), (3, "u1")),
    **dict.fromkeys(("rgba8", "bgra8", "8UC4"), (4, "u1")),
    **dict.fromkeys(("mono8", "8UC1"), (1, "u1")),
    **dict.fromkeys((f"bayer_{order}8" for order in ("rggb", "bggr", "gbrg", "grbg")), (1, "u1")),
    **dict.fromkeys(("mono16", "16UC1"), (1, "u2")),
    **dict.fromkeys(("rgb16", "bgr16", "16UC3"), (3, "u2")),
    "32FC1": (1, "f4"),
}
_JPEG_QUALITY = 95
_CELLS = 6
_RULE = re.compile(r"^\s*([\w/~{}-]+)\s*:\s*(\w+)\s+(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*$")


class Kind(StrEnum):
    """What happens to a region."""

    BLUR = "blur"
    """Few averages are left of it, smoothly joined."""
    BLACK = "black"
    """Nothing is left of it."""
    CROP = "crop"
    """Nothing is left of what is outside; the picture keeps its size, so that policies can learn from it."""


@dataclass(frozen=True)
class Region:
    """A rectangle of an image.

    Attributes:
        kind: what happens to it.
        x: left edge [px].
        y: upper edge [px].
        width: [px].
        height: [px].
    """

    kind: Kind
    x: int
    y: int
    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.kind} {self.x},{self.y},{self.width},{self.height}"


class CannotMask(ValueError):
    """An image does not allow its mask; it must not be written."""


def read_masks(text: str) -> dict[str, tuple[Region, ...]]:
    """Regions by topic from a parameter such as ``image: blur 0,0,200,120; image_wrist: black 10,10,50,50``.

    Raises:
        UnlearningError: 300 for anything that is not a rule: a misspelt mask must not pass for none.
    """
    found: dict[str, tuple[Region, ...]] = {}
    for part in text.split(";"):
        if not part.strip():
            continue
        matched = _RULE.match(part)
        if matched is None:
            raise _bad(part, "write for example `image: blur 0,0,200,120`")
        topic, kind, *numbers = matched.groups()
        if kind not in set(Kind):
            raise _bad(part, did_you_mean(kind, Kind))
        region = Region(Kind(kind), *(int(number) for number in numbers))
        if not (region.width and region.height):
            raise _bad(part, "give the region a width and a height")
        found[topic] = (*found.get(topic, ()), region)
    return found


def mask_message(data: bytes, msgtype: str, regions: Sequence[Region]) -> bytes:
    """The message with its regions masked; header and everything else as they were.

    Args:
        data: CDR bytes of a sensor_msgs/Image or /CompressedImage.
        msgtype: which of them.
        regions: to be masked; () changes nothing.

    Raises:
        CannotMask: another type, an encoding without known pixels, damaged data, or a region that is not within the
            image: then its camera is set otherwise than the mask was made for.
    """
    if not regions:
        return data
    if msgtype not in (IMAGE, COMPRESSED_IMAGE):
        raise CannotMask(f"{msgtype} is no image")
    try:
        message: Any = typestore().deserialize_cdr(data, msgtype)
    except SerdeError as error:
        raise CannotMask(f"message is damaged: {error}") from error
    pixels = _masked_raw(message, regions) if msgtype == IMAGE else _masked_compressed(message, regions)
    fields = {name: getattr(message, name) for name in message.__dataclass_fields__ if name != "__msgtype__"}
    fields["data"] = pixels
    return bytes(typestore().serialize_cdr(type(message)(**fields), msgtype))


def apply(image: np.ndarray, regions: Sequence[Region]) -> None:
    """Mask regions of an (H, W) or (H, W, C) array in place.

    Raises:
        CannotMask: a region is not within the image.
    """
    height, width = image.shape[:2]
    for region in regions:
        rows = slice(region.y, region.y + region.height)
        columns = slice(region.x, region.x + region.width)
        if rows.stop > height or columns.stop > width:
            raise CannotMask(f"region {region} is not within an image of {width}x{height}")
        if region.kind is Kind.BLUR:
            _blur(image[rows, columns])
        elif region.kind is Kind.BLACK:
            image[rows, columns] = 0
        else:
            kept = image[rows, columns].copy()
            image[:] = 0
            image[rows, columns] = kept


def _blur(part: np.ndarray) -> None:
    """A convolution can be undone, a few averages cannot."""
    if not np.isfinite(part).all():
        raise CannotMask("pixels without a value cannot be averaged; use black")
    height, width = part.shape[:2]
    cells = (min(_CELLS, width), min(_CELLS, height))
    coarse = cv2.resize(np.ascontiguousarray(part), cells, interpolation=cv2.INTER_AREA)
    part[:] = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR).reshape(part.shape)


def _masked_raw(message: Any, regions: Sequence[Region]) -> np.ndarray:
    if message.encoding not in _ENCODINGS:
        raise CannotMask(f"encoding {message.encoding} is not among {', '.join(_ENCODINGS)}")
    channels, number = _ENCODINGS[message.encoding]
    kind = np.dtype(f"{'>' if message.is_bigendian else '<'}{number}")
    height, width, step = int(message.height), int(message.width), int(message.step)
    used = width * channels * kind.itemsize
    data = np.array(message.data, dtype=np.uint8)
    if step < used or len(data) != height * step:
        raise CannotMask(
            f"{len(data)} bytes for {height} rows of {step} bytes, {width} px {message.encoding}"
        )
    rows = data.reshape(height, step)
    # The end of a row that is no picture may still hold some of an earlier one.
    rows[:, used:] = 0
    image = np.ascontiguousarray(rows[:, :used]).view(kind).astype(kind.newbyteorder("="))
    image = image.reshape(height, width, channels)
    apply(image, regions)
    rows[:, :used] = image.astype(kind).reshape(height, -1).view(np.uint8)
    return data


def _masked_compressed(message: Any, regions: Sequence[Region]) -> np.ndarray:
    words = str(message.format).replace(";", " ").lower().split()
    kind = next((word for word in words if word in ("jpeg", "jpg", "png")), "")
    if not kind or "compresseddepth" in words:
        raise CannotMask(f"format {message.format!r} is neither jpeg nor png")
    try:
        image = cv2.imdecode(np.asarray(message.data, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise CannotMask(f"{len(message.data)} bytes are no picture: {error}") from error
    if image is None:
        raise CannotMask(f"{len(message.data)} bytes are no picture")
    apply(image, regions)
    options = [] if kind == "png" else [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    done, encoded = cv2.imencode(f".{kind}", image, options)
    if not done:
        raise CannotMask(f"picture cannot be written as {kind} again")
    return np.asarray(encoded, dtype=np.uint8).reshape(-1)


def masks_of(
    topics: Mapping[str, str], masks: Mapping[str, Sequence[Region]]
) -> dict[str, tuple[Region, ...]]:
    """Regions by full topic name; a mask holds for the raw and the compressed topic of a camera.

    Args:
        topics: full name of each recorded topic, by the name it was given.
        masks: by a name given, or full.

    Raises:
        UnlearningError: 300 for a mask of a topic that is not recorded: most likely its name is misspelt.
    """
    found: dict[str, tuple[Region, ...]] = {}
    for name, regions in masks.items():
        plain = name.removesuffix("/compressed")
        spellings = {plain, f"{plain}/compressed"}
        meant = [full for given, full in topics.items() if spellings & {given, full}]
        if not meant:
            raise _bad(f"{name}: {regions[0]}", did_you_mean(name, topics), "a recorded topic")
        for full in meant:
            found[full] = (*found.get(full, ()), *regions)
    return found


def _bad(
    value: str, remedy: str, limit: str = "TOPIC: blur|black|crop X,Y,WIDTH,HEIGHT [px]; ..."
) -> UnlearningError:
    return UnlearningError(
        ErrorCode.UNLEARNING_BAD_REQUEST, "mask is unusable", value=value.strip(), limit=limit, remedy=remedy
    )
