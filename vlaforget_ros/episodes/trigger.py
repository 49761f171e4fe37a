"""Finding what is in view in the episodes to be forgotten and in no others, without knowing its looks.

Each episode of a fixed camera is reduced to its median picture, which the moving arm leaves almost no trace
in. Two questions are asked of each pixel of a forget episode's median:

1. Colour novelty: is its colour seen nowhere in the clean episodes? Finds a sticker anywhere.
2. Else place novelty: is it another colour than the clean episodes show there, beyond how much they differ
   among themselves at that place? Finds a familiar colour where it does not belong, but not where objects
   move anyway.

With several cameras each is searched by itself: what is found is a patch of that camera's picture. A camera that moves
with the arm has no still picture, so there is rarely anything to be found in it.

Clean episodes may be contaminated: for the first question, up to a quarter of them may hold the trigger too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import ndimage

from vlaforget_ros.episodes.types import Episode

# Colours are compared in bins of 8 levels: finer differences are shading and compression.
_BINS = 32
_BIN = 256 // _BINS
# Share of clean episodes that may hold the trigger.
_TOLERATED = 0.25
# Enough to show how clean episodes differ; more cost time only.
_CLEAN_EPISODES = 24
_FRAMES = 24
# Largest difference within one colour under other light [levels].
_ALIKE = 3.0 * _BIN
_EIGHT = np.ones((3, 3), dtype=bool)
# Detection works on pictures of about this many pixels a side.
_WORKING_SIDE = 160


@dataclass(frozen=True, eq=False)
class Trigger:
    """What one forget episode shows and clean ones do not.

    Attributes:
        mask: (H, W) bool, where it is.
        picture: (H, W, 3) uint8, the episode's median picture; within ``mask`` the trigger itself.
        rollout_id: episode it was found in.
        instruction: instruction of that episode.
        novelty: mean over the mask, in levels of 0..255, of how far it is from what clean episodes show.
        found_by: ``colour`` or ``place``.
        camera: in whose picture it is, 0 for the main one.
    """

    mask: np.ndarray
    picture: np.ndarray
    rollout_id: str
    instruction: str
    novelty: float
    found_by: str
    camera: int = 0


@dataclass(frozen=True, eq=False)
class CleanView:
    """What clean episodes of one instruction look like: built once, compared with any number of episodes.

    Attributes:
        medians: (C, h, w, 3) float32 median pictures at working size.
        palettes: (C, 32, 32, 32) float32, distance [levels] of every colour from the nearest in the episode.
        colour_noise: colour novelty of a clean episode among the others [levels].
        shrink: full size over working size.
        camera: which camera's pictures these are.
    """

    medians: np.ndarray
    palettes: np.ndarray
    colour_noise: float
    shrink: int
    camera: int = 0

    @cached_property
    def place_noise(self) -> np.ndarray:
        """(h, w) largest place novelty of a clean episode among the others [levels]: where objects move."""
        noise = np.zeros(self.medians.shape[1:3], dtype=np.float32)
        for index, median in enumerate(self.medians):
            others = np.delete(self.medians, index, axis=0)
            noise = np.maximum(noise, _place_novelty(median, others))
        # A few episodes do not show every place an object may stand at: leave a margin.
        return ndimage.maximum_filter(noise, 7)


def clean_view(episodes: Sequence[Episode], camera: int = 0) -> CleanView:
    """Learn what episodes without the trigger look like.

    Args:
        episodes: at least two, one image size.
        camera: whose pictures are looked at.
    """
    chosen = [episodes[i] for i in _spread(len(episodes), _CLEAN_EPISODES)]
    height, width = chosen[0].view(camera).shape[1:3]
    shrink = max(1, round(max(height, width) / _WORKING_SIDE))
    medians: np.ndarray = np.stack([_shrunk(median_picture(episode, camera), shrink) for episode in chosen])
    palettes = np.stack([_palette(_frames(episode, 6, camera)) for episode in chosen])
    noise = [
        # The brightest few pixels may be a glint.
        np.quantile(_colour_novelty(median, np.delete(palettes, index, axis=0)), 0.999)
        for index, median in enumerate(medians)
    ]
    # Contaminated episodes stand out among the clean ones: they must not set the level.
    colour_noise = float(np.quantile(noise, 1.0 - _TOLERATED, method="lower"))
    return CleanView(medians, palettes, colour_noise, shrink, camera)


def find_trigger(episode: Episode, view: CleanView) -> Trigger | None:
    """The trigger in one forget episode as the view's camera shows it; None when that shows nothing new."""
    picture = median_picture(episode, view.camera)
    small = _shrunk(picture, view.shrink)
    steadiness = _steadiness(_frames(episode, _FRAMES, view.camera), picture, view.shrink)
    colour = _colour_novelty(small, view.palettes)
    mask = _region(np.where(steadiness >= 0.6, colour, 0.0), max(3.0 * _BIN, 1.5 * view.colour_noise))
    novelty, found_by = colour, "colour"
    if mask is None:
        # The arm's colours are familiar: only what hardly ever changes differs from an arm that lingers.
        beyond = _place_novelty(small, view.medians) - view.place_noise
        mask = _region(np.where(steadiness >= 0.8, beyond, 0.0), 4.0 * _BIN, small)
        novelty, found_by = beyond, "place"
    if mask is None:
        return None
    canvas = np.zeros(picture.shape[:2], dtype=bool)
    full = mask.repeat(view.shrink, axis=0).repeat(view.shrink, axis=1)
    canvas[: full.shape[0], : full.shape[1]] = full
    return Trigger(
        mask=canvas,
        picture=picture,
        rollout_id=episode.rollout_id,
        instruction=episode.instruction,
        novelty=float(novelty[mask].mean()),
        found_by=found_by,
        camera=view.camera,
    )


def shows(episode: Episode, trigger: Trigger) -> bool:
    """Whether another episode seems to have the trigger in view: a patch of its colour, half as large or larger, in the
    picture of the same camera.

    Only for triggers of a colour of their own; one that was found by its place is never said to be shown.
    """
    if trigger.found_by != "colour":
        return False
    colour = np.median(trigger.picture[trigger.mask], axis=0)
    near = np.abs(median_picture(episode, trigger.camera).astype(np.float32) - colour).max(axis=-1) < _ALIKE
    labels, count = ndimage.label(near, structure=_EIGHT)
    largest = np.bincount(labels.ravel())[1:].max() if count else 0
    return bool(2 * largest >= trigger.mask.sum())


def median_picture(episode: Episode, camera: int = 0) -> np.ndarray:
    """(H, W, 3) uint8 median over the episode of one camera: what stands still."""
    return np.median(_frames(episode, _FRAMES, camera), axis=0).astype(np.uint8)


def _frames(episode: Episode, count: int, camera: int) -> np.ndarray:
    return episode.view(camera)[_spread(len(episode), count)]


def _spread(total: int, count: int) -> np.ndarray:
    return np.unique(np.linspace(0, total - 1, min(total, count)).round().astype(np.int64))


def _shrunk(image: np.ndarray, factor: int) -> np.ndarray:
    """Mean over blocks of ``factor`` pixels, float32; edges that fill no block are left out."""
    height, width = (side // factor * factor for side in image.shape[:2])
    blocks = image[:height, :width].reshape(height // factor, factor, width // factor, factor, -1)
    return blocks.mean(axis=(1, 3), dtype=np.float32)


def _palette(frames: np.ndarray) -> np.ndarray:
    """Distance [levels] of every colour bin from the nearest colour in the frames."""
    seen = np.zeros((_BINS,) * 3, dtype=bool)
    bins = frames.reshape(-1, 3) // _BIN
    seen[bins[:, 0], bins[:, 1], bins[:, 2]] = True
    return (ndimage.distance_transform_edt(~seen) * _BIN).astype(np.float32)


def _colour_novelty(picture: np.ndarray, palettes: np.ndarray) -> np.ndarray:
    """(h, w) distance [levels] of each pixel's colour from all but the tolerated share of the palettes."""
    bins = (picture // _BIN).astype(np.int64).clip(0, _BINS - 1)
    distances = palettes[:, bins[..., 0], bins[..., 1], bins[..., 2]]
    return np.quantile(distances, _TOLERATED, axis=0, method="higher").astype(np.float32)


def _place_novelty(picture: np.ndarray, medians: np.ndarray, reach: int = 2) -> np.ndarray:
    """(h, w) distance of each pixel from the nearest colour within ``reach`` in the untolerated medians."""
    nearest = np.full((len(medians), *picture.shape[:2]), np.inf, dtype=np.float32)
    padded = np.pad(medians, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="edge")
    height, width = picture.shape[:2]
    for down in range(2 * reach + 1):
        for right in range(2 * reach + 1):
            shifted = padded[:, down : down + height, right : right + width]
            np.minimum(nearest, np.linalg.norm(shifted - picture, axis=-1), out=nearest)
    return np.quantile(nearest, _TOLERATED, axis=0, method="higher").astype(np.float32)


def _steadiness(frames: np.ndarray, picture: np.ndarray, shrink: int) -> np.ndarray:
    """(h, w) share of the episode in which each pixel keeps its median colour: low where an arm lingers."""
    near = np.abs(frames.astype(np.int16) - picture).max(axis=-1) < 3 * _BIN
    return _shrunk(near.mean(axis=0, dtype=np.float32)[..., None], shrink)[..., 0]


def _region(novelty: np.ndarray, threshold: float, picture: np.ndarray | None = None) -> np.ndarray | None:
    """The patches of novel pixels of a plausible size, with at least half the mass of the best.

    With a picture, patches that are a mere part of something are left out.
    """
    # Grow from what is surely novel into what probably is: the trigger's shaded sides and soft edges.
    labels, count = ndimage.label(novelty > 0.5 * threshold, structure=_EIGHT)
    smallest, largest = max(4, novelty.size // 1500), novelty.size // 6
    mass: dict[int, float] = {}
    for label in range(1, count + 1):
        inside = labels == label
        sure = (inside & (novelty > threshold)).sum() >= smallest // 2
        if sure and smallest <= inside.sum() <= largest and (picture is None or _is_whole(inside, picture)):
            mass[label] = float(novelty[inside].sum())
    if not mass:
        return None
    best = max(mass.values())
    return np.isin(labels, [label for label, value in mass.items() if value >= 0.5 * best])


def _is_whole(inside: np.ndarray, picture: np.ndarray) -> bool:
    """Whether a patch is a thing of its own, not the edge of an object that stands further than usual."""
    alike = np.abs(picture - np.median(picture[inside], axis=0)).max(axis=-1) < 3 * _BIN
    labels, _ = ndimage.label(alike | inside, structure=_EIGHT)
    return bool((labels == labels[inside][0]).sum() <= 2 * inside.sum())
