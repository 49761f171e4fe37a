"""The centre crop of models that were tuned with random crops, against its formula written out."""

from __future__ import annotations

import math

import numpy as np
import torch

from vlaforget_ros.policy.images import centre_crop


def _by_hand(image: np.ndarray, area: float) -> np.ndarray:
    """crop_and_resize of one channel: the corners of the crop are sampled, bilinear between pixels."""
    size, side = len(image), math.sqrt(area)
    places = [((1 - side) / 2 + side * i / (size - 1)) * (size - 1) for i in range(size)]
    found = np.empty_like(image)
    for row, y in enumerate(places):
        for column, x in enumerate(places):
            top, left = min(int(y), size - 2), min(int(x), size - 2)
            a, b = y - top, x - left
            found[row, column] = (
                (1 - a) * (1 - b) * image[top, left]
                + (1 - a) * b * image[top, left + 1]
                + a * (1 - b) * image[top + 1, left]
                + a * b * image[top + 1, left + 1]
            )
    return np.floor(found * 255.5)


def test_a_crop_equals_its_formula_and_gives_whole_values() -> None:
    image = np.random.default_rng(0).integers(0, 256, (9, 9)) / 255.0
    cropped = centre_crop(torch.tensor(image, dtype=torch.float64)[None, None], 0.81)[0, 0] * 255.0
    np.testing.assert_allclose(cropped.numpy(), _by_hand(image, 0.81), atol=1e-6)


def test_no_crop_changes_nothing() -> None:
    image = torch.rand(1, 3, 4, 4)
    assert centre_crop(image, 1.0) is image
