"""Images as sensors give them, YUV and Bayer, to RGB; by OpenCV.

Names are those of sensor_msgs/image_encodings.hpp. YUV is taken as cameras and drivers write it: BT.601, limited range
(Y from 16 to 235).
"""

from __future__ import annotations

import numpy as np

_PACKED = {
    "uyvy": "COLOR_YUV2RGB_UYVY",
    "yuv422": "COLOR_YUV2RGB_UYVY",
    "yuyv": "COLOR_YUV2RGB_YUYV",
    "yuv422_yuy2": "COLOR_YUV2RGB_YUYV",
}
_PLANES = {"nv12": "COLOR_YUV2RGB_NV12", "nv21": "COLOR_YUV2RGB_NV21"}
_FULL_PLANES = {"nv24": "COLOR_YUV2RGB_NV12", "nv42": "COLOR_YUV2RGB_NV21"}
# OpenCV names a pattern by its second row and column, ROS by its first pixels.
_BAYER = {
    "bayer_rggb8": "COLOR_BayerBG2RGB",
    "bayer_bggr8": "COLOR_BayerRG2RGB",
    "bayer_gbrg8": "COLOR_BayerGR2RGB",
    "bayer_grbg8": "COLOR_BayerGB2RGB",
}
SENSOR_ENCODINGS: tuple[str, ...] = (*_PACKED, *_PLANES, *_FULL_PLANES, *_BAYER)


class WrongSize(ValueError):
    """The bytes do not fit the size."""


def sensor_image(encoding: str, data: np.ndarray, height: int, width: int, step: int) -> np.ndarray:
    """(H, W, 3) uint8 RGB.

    Args:
        encoding: one of :data:`SENSOR_ENCODINGS`.
        data: (N,) uint8 bytes of the message.
        height: rows.
        width: pixels of a row.
        step: bytes of a row; of planes that of the first one.

    Raises:
        WrongSize: there are too few bytes, or colour that is shared between pixels does not come out even.
    """
    if encoding in _PACKED:
        rows = _rows(data, height, step, 2 * width, even=width)
        return _converted(rows.reshape(height, width, 2), _PACKED[encoding])
    if encoding in _BAYER:
        rows = _rows(data, height, step, width)
        return _converted(rows, _BAYER[encoding])
    if encoding in _PLANES:
        if height % 2:
            raise WrongSize(f"{height} rows of {encoding}")
        rows = _rows(data, height * 3 // 2, step, width, even=width)
        return _converted(rows, _PLANES[encoding])
    return _full_planes(encoding, data, height, width, step)


def _full_planes(encoding: str, data: np.ndarray, height: int, width: int, step: int) -> np.ndarray:
    """Colour for every pixel: OpenCV knows only planes that share it, so each pixel is doubled there and back."""
    luma = _rows(data[: height * step], height, step, width)
    colour = _rows(data[height * step :], height, 2 * step, 2 * width)
    doubled = np.concatenate([np.repeat(np.repeat(luma, 2, axis=0), 2, axis=1), colour])
    return _converted(doubled, _FULL_PLANES[encoding])[::2, ::2]


def _rows(data: np.ndarray, height: int, step: int, used: int, even: int = 0) -> np.ndarray:
    if height <= 0 or used <= 0 or step < used or len(data) < height * step or even % 2:
        raise WrongSize(f"{len(data)} bytes for {height} rows of {step} bytes, {used} of them used")
    return np.ascontiguousarray(data[: height * step].reshape(height, step)[:, :used])


def resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8 in another size (height, width): means of areas to shrink, linear to grow."""
    import cv2

    how = cv2.INTER_AREA if size[0] * size[1] < image.shape[0] * image.shape[1] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(np.ascontiguousarray(image), size[::-1], interpolation=how))


def _converted(image: np.ndarray, code: str) -> np.ndarray:
    # Here, for most bags never need it.
    import cv2

    return np.asarray(cv2.cvtColor(image, getattr(cv2, code)))
