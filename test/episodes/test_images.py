"""Image messages of every supported encoding become the same RGB array; the others are refused by name."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from vlaforget_ros.episodes.images import (
    BrokenImage,
    compressed_message,
    decode,
    header_stamp_ns,
    image_message,
)
from vlaforget_ros.episodes.messages import COMPRESSED_IMAGE, IMAGE, ns_to_stamp, typestore
from vlaforget_ros.errors import ErrorCode, UnlearningError

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
ALPHA = np.full((5, 7, 1), 9, dtype=np.uint8)


def raw(encoding: str, pixels: np.ndarray, padding: int = 0, **changes: int):
    types = typestore().types
    header = types["std_msgs/msg/Header"](ns_to_stamp(0), "")
    rows = pixels.reshape(pixels.shape[0], -1)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=77)
    values = {"height": pixels.shape[0], "width": pixels.shape[1], "step": rows.shape[1], **changes}
    return types[IMAGE](
        header, values["height"], values["width"], encoding, 0, values["step"], rows.reshape(-1).copy()
    )


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize(
    ("encoding", "pixels"),
    [
        ("rgb8", RGB),
        ("bgr8", RGB[..., ::-1]),
        ("rgba8", np.concatenate([RGB, ALPHA], axis=-1)),
        ("bgra8", np.concatenate([RGB[..., ::-1], ALPHA], axis=-1)),
    ],
)
def test_colour_encodings(encoding: str, pixels: np.ndarray, padding: int) -> None:
    assert np.array_equal(decode(raw(encoding, pixels, padding)), RGB)


def test_grey_becomes_three_equal_channels() -> None:
    decoded = decode(raw("mono8", RGB[..., :1]))
    assert decoded.shape == (5, 7, 3)
    assert np.array_equal(decoded, np.repeat(RGB[..., :1], 3, axis=-1))


@pytest.mark.parametrize("words", ["png", "PNG", "rgb8; png compressed bgr8"])
def test_png_is_lossless_however_it_is_described(words: str) -> None:
    message = compressed_message(RGB, 3, "png")
    message.format = words
    assert np.array_equal(decode(message), RGB)


def test_palette_and_alpha_pictures_are_colour_pictures() -> None:
    for mode in ("P", "RGBA", "L"):
        buffer = io.BytesIO()
        Image.fromarray(RGB).convert(mode).save(buffer, "PNG")
        message = compressed_message(RGB, 3, "png")
        message.data = np.frombuffer(buffer.getvalue(), np.uint8)
        assert decode(message).shape == (5, 7, 3)


@pytest.mark.parametrize("encoding", ["bayer_rggb16", "16UC1", "yuv444", ""])
def test_unknown_encodings_are_an_error_with_the_known_ones(encoding: str) -> None:
    with pytest.raises(UnlearningError, match="rgb8, bgr8") as caught:
        decode(raw(encoding, RGB))
    assert caught.value.code is ErrorCode.UNLEARNING_BAG_UNREADABLE
    assert repr(encoding) in str(caught.value)


@pytest.mark.parametrize("words", ["16UC1; compressedDepth png", "h264", ""])
def test_unknown_compressions_are_an_error(words: str) -> None:
    message = compressed_message(RGB, 3, "png")
    message.format = words
    with pytest.raises(UnlearningError, match="not supported"):
        decode(message)


@pytest.mark.parametrize("changes", [{"step": 20}, {"height": 6}, {"height": 0}, {"width": 0}, {"width": 8}])
def test_data_that_do_not_fit_their_description(changes: dict[str, int]) -> None:
    with pytest.raises(BrokenImage):
        decode(raw("rgb8", RGB, **changes))


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_cut_pictures(kind: str) -> None:
    message = compressed_message(RGB, 3, kind)
    message.data = message.data[: len(message.data) // 2]
    with pytest.raises(BrokenImage):
        decode(message)


def test_a_jpeg_called_png_is_broken() -> None:
    message = compressed_message(RGB, 3, "jpeg")
    message.format = "png"
    with pytest.raises(BrokenImage):
        decode(message)


@pytest.mark.parametrize("little", [True, False])
@pytest.mark.parametrize("stamp", [0, 1, 1_999_999_999, 1_763_000_000_123_456_789])
def test_the_stamp_is_read_without_the_picture(stamp: int, little: bool) -> None:
    for msgtype, message in (
        (IMAGE, image_message(RGB, stamp)),
        (COMPRESSED_IMAGE, compressed_message(RGB, stamp, "png")),
    ):
        data = typestore().serialize_cdr(message, msgtype, little_endian=little)
        assert header_stamp_ns(data) == stamp


def test_no_stamp_in_too_few_bytes() -> None:
    with pytest.raises(BrokenImage):
        header_stamp_ns(b"\x00\x01\x00\x00\x01")
