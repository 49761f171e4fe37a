"""Whether what is to be forgotten is also kept under another name: the same recording in two bags, cut or packed anew.

Rollout ids do not tell: a bag that was cut, converted or recorded by a second program may have others. Pictures do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from vlaforget_ros.episodes.types import Episode
from vlaforget_ros.unlearning.checks import Finding

SAME_SHARE = 0.5
"""Share of the shorter episode's frames that are in the other to the pixel, from which on both are one recording.
Episodes of a simulated scene with one seed begin with the same frames."""
NEAR_SHARE = 0.8
"""The same where pictures are only nearly equal. A policy whose actions are few bins does nearly the same in another
episode of the scene: on the embedded one half of the frames were found to match."""
NEAR_GREY = 2.0
"""Root mean square difference of two small pictures, up to which they may be one picture packed twice [grey levels]."""
_SIDE = 16
_SAMPLED = 16
_FEWEST = 4


@dataclass(frozen=True, eq=False)
class Marks:
    """What an episode can be known again by, without its images.

    Attributes:
        rollout_id: of the episode.
        source: path of the bag.
        instruction: that it was told.
        hashes: of each frame's pixels.
        small: (T, 256) float32 pictures of 16x16 pixels, grey levels 0..255.
        actions: (T, A) float32.
    """

    rollout_id: str
    source: str
    instruction: str
    hashes: tuple[bytes, ...]
    small: np.ndarray
    actions: np.ndarray


def marks_of(episode: Episode) -> Marks:
    """The marks of an episode, of its main camera."""
    view = episode.view(0)
    hashes = tuple(hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in view)
    small = [
        np.asarray(Image.fromarray(image).convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX))
        for image in view
    ]
    pictures = np.array(small, dtype=np.float32).reshape(len(view), _SIDE * _SIDE)
    return Marks(
        episode.rollout_id,
        episode.source,
        episode.instruction,
        hashes,
        pictures,
        episode.actions.astype(np.float32),
    )


def check_leakage(forget: Sequence[Marks], kept: Sequence[Marks]) -> list[Finding]:
    """Kept episodes that show frames of a forget episode.

    Frames are the same when their pixels are; or when the small pictures are near and the instructions and actions
    equal, as after another compression. A shared first frame alone is noted: the same seed, or the same start of a
    simulated scene.

    Args:
        forget: episodes of D_f.
        kept: episodes of D_r and D_b, each once.
    """
    found, started = [], []
    for undesired in forget:
        for other in kept:
            same, near = _same_pixels(undesired, other), _near(undesired, other)
            if same >= SAME_SHARE or near >= NEAR_SHARE:
                found.append(_leak(undesired, other, max(same, near)))
            elif undesired.hashes and other.hashes and undesired.hashes[0] == other.hashes[0]:
                started.append(f"{undesired.rollout_id} and {other.rollout_id}")
    if started:
        more = f" and {len(started) - 3} more" if len(started) > 3 else ""
        text = (
            f"{len(started)} pairs of a forget and a kept episode start with the same picture (one seed?): "
        )
        found.append(Finding("same_start", "note", text + ", ".join(started[:3]) + more))
    return found


def _leak(undesired: Marks, other: Marks, share: float) -> Finding:
    return Finding(
        "leakage",
        "warning",
        f"{share:.0%} of forget episode {undesired.rollout_id} ({undesired.source}) is in kept episode "
        f"{other.rollout_id} ({other.source}): one recording under two names",
        f"less than {SAME_SHARE:.0%} to the pixel, {NEAR_SHARE:.0%} nearly",
        f"leave one of the two bags out, or take {other.rollout_id} out of what is kept",
    )


def _same_pixels(undesired: Marks, other: Marks) -> float:
    """Share of the different frames of the shorter of the two: either may be cut from the other."""
    one, two = set(undesired.hashes), set(other.hashes)
    return len(one & two) / min(len(one), len(two)) if one and two else 0.0


def _near(undesired: Marks, other: Marks) -> float:
    if undesired.instruction != other.instruction or undesired.actions.shape[1:] != other.actions.shape[1:]:
        return 0.0
    short, long = sorted((undesired, other), key=lambda marks: len(marks.hashes))
    # An action gives evidence once: an arm that waits does the same in every recording.
    distinct = np.sort(np.unique(short.actions, axis=0, return_index=True)[1])
    if len(distinct) < _FEWEST:
        return 0.0
    rows = distinct[np.unique(np.linspace(0, len(distinct) - 1, _SAMPLED).round().astype(np.int64))]
    pictures, actions = short.small[rows], short.actions[rows]
    distance = (pictures**2).sum(1)[:, None] + (long.small**2).sum(1) - 2 * pictures @ long.small.T
    near = distance <= pictures.shape[1] * NEAR_GREY**2
    equal = (actions[:, None] == long.actions[None]).all(-1)
    return float((near & equal).any(1).mean())
