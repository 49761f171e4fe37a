"""Masks: nothing of a masked region is left, everything else is as it was, what cannot be masked is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlaforget_ros.episodes.images import compressed_message, decode, image_message
from vlaforget_ros.episodes.messages import COMPRESSED_IMAGE, IMAGE, STRING, ns_to_stamp, typestore
from vlaforget_ros.episodes.recording import privacy
from vlaforget_ros.episodes.recording.privacy import (
    CannotMask,
    Kind,
    Region,
    mask_message,
    masks_of,
    read_masks,
)
from vlaforget_ros.errors import UnlearningError

WIDTH, HEIGHT = 24, 16
PART = Region(Kind.BLACK, 4, 3, 8, 6)
ROWS, COLUMNS = slice(3, 9), slice(4, 12)


def noise(shape: tuple[int, ...] = (HEIGHT, WIDTH, 3), kind: str = "u1") -> np.ndarray:
    high = 256 if kind == "u1" else 65536
    return np.random.default_rng(1).integers(1, high, shape).astype(kind)


def raw(encoding: str, image: np.ndarray, padding: int = 0, big: bool = False) -> bytes:
    types = typestore().types
    header = types["std_msgs/msg/Header"](ns_to_stamp(1_234_567_890), "wrist")
    height, width = image.shape[:2]
    order = image.astype(image.dtype.newbyteorder(">" if big else "<"))
    rows = np.frombuffer(order.tobytes(), np.uint8).reshape(height, -1)
    rows = np.concatenate([rows, np.full((height, padding), 99, np.uint8)], axis=1)
    message = types[IMAGE](header, height, width, encoding, int(big), rows.shape[1], rows.reshape(-1))
    return bytes(typestore().serialize_cdr(message, IMAGE))


def read(data: bytes, msgtype: str = IMAGE) -> Any:
    return typestore().deserialize_cdr(data, msgtype)


ENCODINGS = [
    ("rgb8", 3, "u1"),
    ("bgr8", 3, "u1"),
    ("rgba8", 4, "u1"),
    ("mono8", 1, "u1"),
    ("bayer_rggb8", 1, "u1"),
    ("mono16", 1, "u2"),
    ("rgb16", 3, "u2"),
    ("32FC1", 1, "f4"),
]


@pytest.mark.parametrize(("encoding", "channels", "kind"), ENCODINGS)
@pytest.mark.parametrize("padding", [0, 4])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("what", list(Kind))
def test_only_the_region_changes(
    encoding: str, channels: int, kind: str, padding: int, big: bool, what: Kind
) -> None:
    image = noise((HEIGHT, WIDTH, channels), kind)
    region = Region(what, PART.x, PART.y, PART.width, PART.height)
    given = raw(encoding, image, padding, big)
    before, after = read(given), read(mask_message(given, IMAGE, [region]))
    for name in ("header", "height", "width", "encoding", "is_bigendian", "step"):
        assert getattr(before, name) == getattr(after, name)
    assert len(before.data) == len(after.data)
    order = np.dtype(kind).newbyteorder(">" if big else "<")
    found = after.data.reshape(HEIGHT, -1)[:, : WIDTH * channels * order.itemsize].copy().view(order)
    found = found.reshape(image.shape)
    inside = np.zeros((HEIGHT, WIDTH), bool)
    inside[ROWS, COLUMNS] = True
    if what is Kind.CROP:
        assert not found[~inside].any()
        assert np.array_equal(found[inside], image[inside])
    else:
        assert np.array_equal(found[~inside], image[~inside])
        assert not np.array_equal(found[inside], image[inside])
        assert what is Kind.BLUR or not found[inside].any()


@given(seed=st.integers(0, 2**32 - 1), x=st.integers(0, 12), y=st.integers(0, 12))
def test_a_blur_leaves_a_few_averages_only(seed: int, x: int, y: int) -> None:
    """Pictures with the same averages come out the same: what made them differ is gone."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)
    other = image.copy()
    for row in range(y, y + 36, 6):
        for column in range(x, x + 36, 6):
            cell = other[row : row + 6, column : column + 6].reshape(36, 3)
            other[row : row + 6, column : column + 6] = rng.permutation(cell).reshape(6, 6, 3)
    region = Region(Kind.BLUR, x, y, 36, 36)
    privacy.apply(image, [region])
    privacy.apply(other, [region])
    assert np.array_equal(image, other)


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_a_compressed_picture_is_masked_and_keeps_its_header(kind: str) -> None:
    image = np.full((HEIGHT, WIDTH, 3), (200, 100, 50), np.uint8)
    message = compressed_message(image, 42, kind, "wrist")
    given = bytes(typestore().serialize_cdr(message, COMPRESSED_IMAGE))
    after = read(mask_message(given, COMPRESSED_IMAGE, [PART]), COMPRESSED_IMAGE)
    assert (after.header, after.format) == (message.header, kind)  # type: ignore[attr-defined]
    found = decode(after)
    assert found[4:8, 5:11].max() <= 12  # jpeg rings a little
    assert np.abs(found[12:].astype(int) - image[12:]).max() <= (0 if kind == "png" else 12)


def test_the_padding_of_rows_is_cleared() -> None:
    after = read(mask_message(raw("rgb8", noise(), padding=4), IMAGE, [PART]))
    assert not after.data.reshape(HEIGHT, -1)[:, WIDTH * 3 :].any()


def message_of(**changes: Any) -> bytes:
    message: Any = image_message(noise(), 1)
    for name, value in changes.items():
        object.__setattr__(message, name, value)
    return bytes(typestore().serialize_cdr(message, IMAGE))


@pytest.mark.parametrize(
    ("data", "msgtype", "region", "why"),
    [
        (message_of(encoding="yuv422_yuy2"), IMAGE, PART, "encoding yuv422_yuy2"),
        (message_of(height=HEIGHT + 1), IMAGE, PART, "rows of"),
        (message_of(step=5), IMAGE, PART, "rows of 5 bytes"),
        (message_of(), IMAGE, Region(Kind.BLACK, 20, 0, 8, 8), "not within an image of 24x16"),
        (message_of()[:40], IMAGE, PART, "damaged"),
        (b"", IMAGE, PART, "damaged"),
        (message_of(), STRING, PART, "is no image"),
        (
            raw("32FC1", np.full((HEIGHT, WIDTH, 1), np.nan, "f4")),
            IMAGE,
            Region(Kind.BLUR, 0, 0, 4, 4),
            "black",
        ),
    ],
)
def test_what_cannot_be_masked_is_refused(data: bytes, msgtype: str, region: Region, why: str) -> None:
    with pytest.raises(CannotMask, match=why):
        mask_message(data, msgtype, [region])


@pytest.mark.parametrize("described", ["16UC1; compressedDepth png", "theora", ""])
def test_a_picture_in_another_format_is_refused(described: str) -> None:
    message: Any = compressed_message(noise(), 1, "png")
    object.__setattr__(message, "format", described)
    data = bytes(typestore().serialize_cdr(message, COMPRESSED_IMAGE))
    with pytest.raises(CannotMask, match="neither jpeg nor png"):
        mask_message(data, COMPRESSED_IMAGE, [PART])


def test_bytes_that_are_no_picture_are_refused() -> None:
    message: Any = compressed_message(noise(), 1, "png")
    for bad in (np.zeros(0, np.uint8), np.frombuffer(b"no picture", np.uint8)):
        object.__setattr__(message, "data", bad)
        data = bytes(typestore().serialize_cdr(message, COMPRESSED_IMAGE))
        with pytest.raises(CannotMask, match="no picture"):
            mask_message(data, COMPRESSED_IMAGE, [PART])


def test_masks_are_read_and_belong_to_a_topic_and_its_compressed_twin() -> None:
    masks = read_masks("image: blur 0,0,4,4; image: black 1, 2, 3, 4 ;/other/cam: crop 0,0,8,8;")
    assert masks["image"] == (Region(Kind.BLUR, 0, 0, 4, 4), Region(Kind.BLACK, 1, 2, 3, 4))
    topics = {"image": "/arm/image", "image/compressed": "/arm/image/compressed", "/other/cam": "/other/cam"}
    found = masks_of(topics, masks)
    assert found["/arm/image"] == found["/arm/image/compressed"] == masks["image"]
    assert found["/other/cam"] == (Region(Kind.CROP, 0, 0, 8, 8),)
    assert masks_of(topics, read_masks("image/compressed: black 0,0,1,1")).keys() >= {"/arm/image"}
    assert read_masks(" ; ") == {}


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("image blur 0,0,4,4", "write for example"),
        ("image: blurr 0,0,4,4", "did you mean blur"),
        ("image: blur 0,0,4", "write for example"),
        ("image: blur 0,0,4,0", "a width and a height"),
        ("image: blur -1,0,4,4", "write for example"),
    ],
)
def test_a_misspelt_mask_does_not_pass_for_none(text: str, remedy: str) -> None:
    with pytest.raises(UnlearningError, match=remedy) as caught:
        read_masks(text)
    assert caught.value.code == 300


def test_a_mask_of_a_topic_that_is_not_recorded_is_refused() -> None:
    with pytest.raises(UnlearningError, match="did you mean image"):
        masks_of({"image": "/image"}, read_masks("imagee: blur 0,0,4,4"))
