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


def check_observation(image: np.ndarray, state: np.ndarray | None, config: PolicyConfig) -> None:
    """Check what a policy is shown: as many images as it has cameras, and the robot's state where it is told it.

    Args:
        image: (H, W, 3), or (images, H, W, 3) for several cameras.
        state: (P,) or None.
        config: of the policy.

    Raises:
        PolicyError: 209 for a bad image or a wrong number of them, 208 for a missing, unexpected or bad state.
    """
    cameras = config.cameras
    if cameras > 1 and (image.ndim != 4 or len(image) != cameras):
        raise PolicyError(
            ErrorCode.POLICY_BAD_IMAGE,
            "this policy looks through several cameras",
            value=f"shape {image.shape}",
            limit=f"({cameras}, H, W, 3) uint8 RGB",
            remedy="give one image of each camera, in the order in which it was trained",
        )
    for one in image if cameras > 1 else [image]:
        check_image(one)
    wanted = None if config.state is None else (len(config.state.low),)
    given = None if state is None else np.shape(state)
    if given != wanted or (state is not None and not np.all(np.isfinite(state))):
        raise PolicyError(
            ErrorCode.POLICY_BAD_PARAMETER,
            "state of the robot",
            value="none" if state is None else state,
            limit=f"{wanted[0]} finite numbers" if wanted else "none: this policy is not told it",
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


def letterboxed(images: Tensor, size: int, border: float = -1.0) -> Tensor:
    """pi0-FAST's input (N, 3, S, S) from (N, H, W, 3) uint8: bilinear, its shape kept, in -1..1.

    Args:
        images: of any size.
        size: S.
        border: what the rest of the square is filled with: what the policy was trained with. (lerobot before 0.5
            filled with -1 first and mapped 0..1 to -1..1 afterwards, which gives -3.)
    """
    scaled = images.permute(0, 3, 1, 2).float() / 255.0
    height, width = scaled.shape[2:]
    if (height, width) != (size, size):
        ratio = max(width / size, height / size)
        inner = int(height / ratio), int(width / ratio)
        scaled = functional.interpolate(scaled, size=inner, mode="bilinear", align_corners=False)
        above, left = (size - inner[0]) // 2, (size - inner[1]) // 2
        edges = (left, size - inner[1] - left, above, size - inner[0] - above)
        return functional.pad(scaled * 2.0 - 1.0, edges, value=border)
    return scaled * 2.0 - 1.0


def pixel_values(images: np.ndarray, config: PolicyConfig, device: torch.device | str = "cpu") -> Tensor:
    """Model input (N, 3 * towers, S, S) float32 from (N, H, W, 3) uint8 RGB images.

    Of several cameras, (N, images, H, W, 3), each has its channels: (N, images * 3 * towers, S, S).
    """
    if images.ndim == 5:
        each = pixel_values(images.reshape(-1, *images.shape[2:]), config, device)
        return each.unflatten(0, images.shape[:2]).flatten(1, 2)
    size = config.featurizer.image_size
    if config.fast is not None:
        return letterboxed(
            torch.from_numpy(np.ascontiguousarray(images)).to(device), size, config.fast.border
        )
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
