"""Images as sensors give them, against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from vlaforget_ros.episodes.images import BrokenImage, decode
from vlaforget_ros.episodes.messages import IMAGE, ns_to_stamp, typestore
from vlaforget_ros.episodes.sensor_encodings import SENSOR_ENCODINGS, resized
from vlaforget_ros.errors import UnlearningError


def message(encoding: str, rows: np.ndarray, height: int, width: int, step: int | None = None) -> object:
    types = typestore().types
    header = types["std_msgs/msg/Header"](ns_to_stamp(0), "camera")
    data = np.ascontiguousarray(rows, dtype=np.uint8).reshape(-1)
    return types[IMAGE](header, height, width, encoding, 0, step or rows.shape[1], data)


def bt601(y: float, u: float, v: float) -> list[float]:
    """Limited range: Y from 16 to 235, colour from 16 to 240."""
    luma = 255 / 219 * (y - 16)
    scale = 255 / 224
    red = luma + 1.402 * scale * (v - 128)
    green = luma - scale * (0.344136 * (u - 128) + 0.714136 * (v - 128))
    blue = luma + 1.772 * scale * (u - 128)
    return [min(max(value, 0.0), 255.0) for value in (red, green, blue)]


# Y of two pixels side by side, and the colour that they share: grey, red, green, blue, black and white.
PAIRS = [(126, 126, 128, 128), (81, 90, 90, 240), (145, 140, 54, 34), (41, 60, 240, 110), (16, 235, 128, 128)]


@pytest.mark.parametrize(
    ("encoding", "order"), [("uyvy", "uyvy"), ("yuv422", "uyvy"), ("yuyv", "yuyv"), ("yuv422_yuy2", "yuyv")]
)
@pytest.mark.parametrize("padding", [0, 3])
def test_packed_yuv(encoding: str, order: str, padding: int) -> None:
    row: list[int] = []
    for y0, y1, u, v in PAIRS:
        row += [u, y0, v, y1] if order == "uyvy" else [y0, u, y1, v]
    rows = np.array([row + [99] * padding] * 2)
    image = decode(message(encoding, rows, 2, 2 * len(PAIRS)))
    assert image.shape == (2, 2 * len(PAIRS), 3)
    expected = [bt601(y, u, v) for y0, y1, u, v in PAIRS for y in (y0, y1)]
    np.testing.assert_allclose(image[1], expected, atol=2)


@pytest.mark.parametrize(("encoding", "first"), [("nv12", "u"), ("nv21", "v")])
def test_planes_that_share_colour(encoding: str, first: str) -> None:
    luma = [[y for y0, y1, _, _ in PAIRS for y in (y0, y1)]] * 2
    colour = [c for _, _, u, v in PAIRS for c in ((u, v) if first == "u" else (v, u))]
    image = decode(message(encoding, np.array([*luma, colour]), 2, 2 * len(PAIRS)))
    expected = [bt601(y, u, v) for y0, y1, u, v in PAIRS for y in (y0, y1)]
    np.testing.assert_allclose(image[0], expected, atol=2)
    np.testing.assert_array_equal(image[0], image[1])


@pytest.mark.parametrize(("encoding", "first"), [("nv24", "u"), ("nv42", "v")])
def test_planes_with_a_colour_for_each_pixel(encoding: str, first: str) -> None:
    pixels = [(126, 128, 128), (81, 90, 240), (145, 54, 34)]
    luma = np.array([[y for y, _, _ in pixels]])
    colour = np.array([c for _, u, v in pixels for c in ((u, v) if first == "u" else (v, u))])
    rows = np.concatenate([luma.reshape(-1), colour])[None]
    image = decode(message(encoding, rows, 1, 3, step=3))
    np.testing.assert_allclose(image[0], [bt601(*pixel) for pixel in pixels], atol=2)


@pytest.mark.parametrize(
    ("encoding", "pattern"),
    [("bayer_rggb8", "rggb"), ("bayer_bggr8", "bggr"), ("bayer_gbrg8", "gbrg"), ("bayer_grbg8", "grbg")],
)
def test_bayer(encoding: str, pattern: str) -> None:
    colour = {"r": 200, "g": 100, "b": 30}
    tile = np.array([[colour[pattern[0]], colour[pattern[1]]], [colour[pattern[2]], colour[pattern[3]]]])
    image = decode(message(encoding, np.tile(tile, (4, 4)), 8, 8))
    # One colour everywhere: interpolation gives just that.
    assert (image[2:-2, 2:-2] == (200, 100, 30)).all()


@pytest.mark.parametrize("encoding", SENSOR_ENCODINGS)
def test_too_few_bytes_are_a_broken_image(encoding: str) -> None:
    with pytest.raises(BrokenImage):
        decode(message(encoding, np.zeros((1, 7)), 4, 4, step=8))


@pytest.mark.parametrize("encoding", ["mono16", "16UC1", "32FC1", "8UC3", "rgb16"])
def test_what_no_rule_makes_colours_of_is_refused_by_name(encoding: str) -> None:
    with pytest.raises(UnlearningError) as caught:
        decode(message(encoding, np.zeros((2, 12)), 2, 2))
    assert encoding in str(caught.value)
    assert "uyvy" in str(caught.value.limit)
    # Somebody who knows better may say so.
    assert decode(message(encoding, np.zeros((2, 12)), 2, 2), "bgr8").shape == (2, 2, 3)


def test_resized_keeps_the_mean() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    image[:, 4:] = 200
    np.testing.assert_array_equal(resized(image, (2, 2))[:, :, 0], [[0, 200], [0, 200]])
    assert resized(image, (16, 12)).shape == (16, 12, 3)
