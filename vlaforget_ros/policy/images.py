"""Camera images to model input: naive bicubic resize with PIL, then each tower's normalisation."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from vlaforget_ros.errors import ErrorCode, PolicyError
from vlaforget_ros.policy.config import PolicyConfig


def check_image(image: np.ndarray) -> None:
    """Raises PolicyError 209 unless ``image`` is (H, W, 3) uint8."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise PolicyError(
            ErrorCode.POLICY_BAD_IMAGE,
            "not a camera image",
            value=f"shape {image.shape}, {image.dtype}",
            limit="(H, W, 3) uint8 RGB",
            remedy="check the encoding of the image topic",
        )


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """(size, size, 3) uint8; PIL's bicubic gives upstream's pixels exactly, OpenCV's does not."""
    check_image(image)
    if image.shape[:2] == (size, size):
        return image
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))


def centre_crop(images: Tensor, area: float) -> Tensor:
    """The middle of (N, 3, S, S) images in 0..1, enlarged to their size again, as eight-bit values.

    Bilinear between the corners of the crop and rounded as TensorFlow's crop_and_resize and convert_image_dtype do,
    with which upstream evaluates models that were trained on random crops.

    Args:
        images: to be cropped.
        area: share that is kept; 1 changes nothing.
    """
    if area == 1.0:
        return images
    theta = torch.eye(2, 3, device=images.device, dtype=images.dtype) * area**0.5
    grid = functional.affine_grid(theta.expand(len(images), -1, -1), list(images.shape), align_corners=True)
    cropped = functional.grid_sample(images, grid, mode="bilinear", align_corners=True)
    return (cropped.clamp(0.0, 1.0) * 255.5).floor().clamp(max=255.0) / 255.0


def pixel_values(images: np.ndarray, config: PolicyConfig, device: torch.device | str = "cpu") -> Tensor:
    """Model input (N, 3 * towers, S, S) float32 from (N, H, W, 3) uint8 RGB images."""
    size = config.featurizer.image_size
    if images.shape[1:3] != (size, size):
        images = np.stack([resize(image, size) for image in images])
    scaled = torch.from_numpy(np.ascontiguousarray(images)).to(device).permute(0, 3, 1, 2).float() / 255.0
    scaled = centre_crop(scaled, config.centre_crop)
    channels = []
    for tower in config.towers:
        mean = torch.tensor(tower.mean, device=scaled.device).view(1, 3, 1, 1)
        std = torch.tensor(tower.std, device=scaled.device).view(1, 3, 1, 1)
        channels.append((scaled - mean) / std)
    return torch.cat(channels, dim=1)
