"""Pictures inside a page: film strips of rollouts, plots and images as data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image

from vlaforget_ros.errors import ErrorCode, UnlearningError

QUALITY = 88
_BEFORE, _AFTER = "-before", "-after"
_SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class Strip:
    """One situation before and after the edit.

    Args:
        caption: situation and seed.
        before: (H, W, 3) uint8, moments side by side.
        after: the same episode with the edited policy.
    """

    caption: str
    before: np.ndarray
    after: np.ndarray


def strip(frames: Sequence[np.ndarray | Path], count: int = 6) -> np.ndarray:
    """Frames of a rollout side by side.

    Args:
        frames: in order; arrays of (H, W, 3) uint8, or PNG or JPEG files.
        count: how many to show, spread evenly.

    Returns:
        (H, count * W, 3) uint8; frames of other heights are scaled to the first one's.

    Raises:
        UnlearningError: 300 without frames, or for a file that is no picture.
    """
    if not frames:
        raise _no_picture("a strip needs at least one frame", 0)
    chosen = np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int)
    pictures = [_picture(frames[index]) for index in chosen]
    height = pictures[0].height
    scaled = [p.resize((max(1, round(p.width * height / p.height)), height)) for p in pictures]
    return np.concatenate([np.asarray(picture) for picture in scaled], axis=1)


def read_strips(folder: Path) -> list[Strip]:
    """Strips in a folder: NAME-before and NAME-after, PNG or JPEG.

    Each is a picture, or a folder of frames in the order of their names.

    Raises:
        UnlearningError: 300 where there is no pair, or something is no picture.
    """
    places = sorted(folder.iterdir()) if folder.is_dir() else []
    by_name = {place.stem if place.suffix in _SUFFIXES else place.name: place for place in places}
    names = [name.removesuffix(_BEFORE) for name in by_name if name.endswith(_BEFORE)]
    found = [
        Strip(name, *(_read(by_name[name + side]) for side in (_BEFORE, _AFTER)))
        for name in names
        if name + _AFTER in by_name
    ]
    if not found:
        raise _no_picture("no pictures of rollouts", folder)
    return found


def save_strips(folder: Path, strips: Sequence[Strip]) -> None:
    """Write strips so that :func:`read_strips` finds them: the counterpart of it."""
    folder.mkdir(parents=True, exist_ok=True)
    for shown in strips:
        name = shown.caption.replace(", seed ", "-")
        for side, picture in ((_BEFORE, shown.before), (_AFTER, shown.after)):
            Image.fromarray(picture).save(folder / f"{name}{side}.jpg", quality=QUALITY)


def figure_uri(figure: Figure) -> str:
    """A plot as a data URI (SVG), the same bytes each time."""
    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "vlaforget"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def image_uri(image: np.ndarray) -> str:
    """An (H, W, 3) uint8 image as a data URI (JPEG)."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _read(place: Path) -> np.ndarray:
    if place.is_dir():
        return strip([path for path in sorted(place.iterdir()) if path.suffix in _SUFFIXES])
    return np.asarray(_picture(place))


def _picture(frame: np.ndarray | Path) -> Image.Image:
    if isinstance(frame, np.ndarray):
        return Image.fromarray(frame)
    try:
        with Image.open(frame) as picture:
            return picture.convert("RGB")
    except OSError as error:
        raise _no_picture("a file is no picture", frame) from error


def _no_picture(message: str, value: object) -> UnlearningError:
    return UnlearningError(
        ErrorCode.UNLEARNING_BAD_REQUEST,
        message,
        value=value,
        limit="pairs NAME-before and NAME-after: PNG or JPEG pictures, or folders of such frames",
        remedy="give the folder `pictures` of a demo run, or leave it out",
    )
