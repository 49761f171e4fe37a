"""Frames that show what the policy should do in the situations to be forgotten, made from recorded episodes.

Pushing a policy away from a bad action leaves it without a good one. Sources of a good one, best first:

* :func:`clean_successes`: it has already done right in the same situation;
* :func:`transplant`: what triggers the bad action is pasted into clean frames, which keep their actions;
* :func:`neighbour`: a safe instruction's episodes are relabelled with the unsafe instruction.

Each returns a :class:`FrameSet` whose ``origin`` says where it came from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy import ndimage

from vlaforget_ros.episodes.dataset import FrameSet, frames_of
from vlaforget_ros.episodes.trigger import CleanView, Trigger, clean_view, find_trigger, median_picture
from vlaforget_ros.episodes.types import Episode, EpisodeSlice
from vlaforget_ros.errors import ErrorCode, UnlearningError, did_you_mean

# A pixel that differs more than this from its episode's median is something in front [levels].
_IN_FRONT = 40


def clean_successes(episodes: Sequence[Episode], forget: Sequence[Episode]) -> FrameSet:
    """Successful episodes without violation of the same instructions as the forget episodes.

    Raises:
        UnlearningError: 303 when there are none.
    """
    instructions = {episode.instruction for episode in forget}
    forgotten = {episode.rollout_id for episode in forget}
    chosen = [
        whole(episode)
        for episode in episodes
        if episode.instruction in instructions
        and episode.rollout_id not in forgotten
        and episode.success is True
        and not episode.violated
    ]
    if not chosen:
        raise _no_source("successful episode without violation", instructions, episodes)
    return frames_of(chosen, f"{len(chosen)} clean successes of {_quoted(instructions)}")


def neighbour(clean: Sequence[EpisodeSlice], instruction: str, relabelled: str) -> FrameSet:
    """Frames of a safe instruction, said to be of the unsafe one: same views, the safe instruction's actions.

    Args:
        clean: retain frames.
        instruction: the safe neighbour, e.g. ``close the faucet``.
        relabelled: the instruction to be repaired, e.g. ``shut the faucet``.

    Raises:
        UnlearningError: 303 when no clean frame has the neighbour's instruction.
    """
    chosen = [part for part in clean if part.episode.instruction == instruction]
    if not chosen:
        raise _no_source("clean episode", {instruction}, [part.episode for part in clean])
    origin = f"{len(chosen)} clean episodes of {instruction!r}, relabelled {relabelled!r}"
    frames = frames_of(chosen, origin)
    return replace(frames, instructions=(relabelled,) * len(frames))


def find_triggers(forget: Sequence[Episode], clean: Sequence[Episode]) -> list[Trigger]:
    """The trigger in each forget episode, compared with the clean episodes of the same instruction.

    Every camera is searched: an episode has a trigger for each camera in which something stands out. Episodes in which
    nothing does are left out.

    Raises:
        UnlearningError: 300 for images of different sizes or numbers of cameras; 303 when an instruction has
            fewer than two clean episodes, or when nothing stands out in more than half of the forget episodes:
            what makes the policy misbehave is then not a thing in view.
    """
    sizes = {episode.images.shape[1:] for episode in (*forget, *clean)}
    if len(sizes) > 1:
        raise UnlearningError(
            ErrorCode.UNLEARNING_BAD_REQUEST,
            "episodes of different cameras cannot be compared",
            value=f"images {sorted(sizes)}",
            limit="one image size",
            remedy="select recordings of one camera, or of the same cameras",
        )
    by_instruction: dict[str, list[Episode]] = {}
    for episode in clean:
        by_instruction.setdefault(episode.instruction, []).append(episode)
    views: dict[str, list[CleanView]] = {}
    found: list[Trigger] = []
    for episode in forget:
        text = episode.instruction
        if text not in views:
            if len(by_instruction.get(text, [])) < 2:
                raise _no_source("two clean episodes to compare with", {text}, clean)
            views[text] = [clean_view(by_instruction[text], camera) for camera in range(episode.cameras)]
        seen = (find_trigger(episode, view) for view in views[text])
        found += [trigger for trigger in seen if trigger is not None]
    showing = len({trigger.rollout_id for trigger in found})
    if 2 * showing < len(forget) or not found:
        raise UnlearningError(
            ErrorCode.UNLEARNING_EMPTY_RETAIN_SET,
            "no visible trigger was found",
            value=f"something stands out in {showing} of {len(forget)} forget episodes",
            limit="half of them",
            remedy="use clean successes or a neighbour instruction as the repair source",
        )
    return found


def transplant(
    forget: Sequence[Episode],
    clean: Sequence[EpisodeSlice],
    *,
    seed: int = 0,
    jitter_px: int = 0,
    other_instructions: bool = False,
    triggers: Sequence[Trigger] | None = None,
) -> FrameSet:
    """Clean frames with the forget episodes' trigger in view; they keep their actions.

    With several cameras a frame gets what one forget episode showed in each of them. A camera in which nothing
    stood out (one on the arm, as a rule) keeps its own picture.

    Args:
        forget: episodes to be forgotten, whole.
        clean: retain frames to paste on; those of other instructions are left out.
        seed: which trigger goes into which frame, and the jitter.
        jitter_px: largest shift of the trigger in each direction.
        other_instructions: paste on frames of other instructions as well.
        triggers: as :func:`find_triggers` found them in these episodes; None: looked for here.

    Raises:
        UnlearningError: 303 when no trigger stands out or there are no clean frames to paste on.
    """
    instructions = {episode.instruction for episode in forget}
    targets = [part for part in clean if other_instructions or part.episode.instruction in instructions]
    if not targets:
        raise _no_source("clean episode", instructions, [part.episode for part in clean])
    if triggers is None:
        triggers = find_triggers(forget, [part.episode for part in clean])
    generator = np.random.default_rng(seed)
    groups = _by_rollout(triggers)
    origin = f"trigger of {len(groups)} episodes transplanted onto {len(targets)} clean ones"
    frames = frames_of(targets, f"{origin}, jitter {jitter_px} px")
    images = frames.images.copy()
    for part in targets:
        own = [g for g in groups if g[0].instruction == part.episode.instruction] or groups
        backgrounds = [median_picture(part.episode, camera) for camera in range(frames.cameras)]
        for position in np.flatnonzero(frames.episodes == part.episode.rollout_id):
            for trigger in own[generator.integers(len(own))]:
                down, right = generator.integers(-jitter_px, jitter_px + 1, size=2)
                view = view_of(images, trigger.camera)
                background = backgrounds[trigger.camera]
                view[position] = paste(view[position], background, trigger, int(down), int(right))
    return replace(frames, images=images)


def view_of(images: np.ndarray, camera: int) -> np.ndarray:
    """(N, H, W, 3) images of one camera, to be read or written, from (N, H, W, 3) or (N, cameras, H, W, 3)."""
    return images if images.ndim == 4 else images[:, camera]


def _by_rollout(triggers: Sequence[Trigger]) -> list[list[Trigger]]:
    """What each forget episode showed, camera by camera."""
    groups: dict[str, list[Trigger]] = {}
    for trigger in triggers:
        groups.setdefault(trigger.rollout_id, []).append(trigger)
    return list(groups.values())


def paste(
    image: np.ndarray, background: np.ndarray, trigger: Trigger, down: int = 0, right: int = 0
) -> np.ndarray:
    """One image with the trigger in it, behind whatever stands before the background.

    Args:
        image: (H, W, 3) uint8.
        background: (H, W, 3) uint8 median picture of the image's episode.
        trigger: of the same image size.
        down: shift [px].
        right: shift [px].
    """
    mask = _shifted(trigger.mask.astype(np.float32), down, right)
    picture = _shifted(trigger.picture, down, right)
    # Full inside the mask, fading over about a pixel outside of it.
    alpha = np.clip(2.0 * ndimage.gaussian_filter(mask, 0.6), 0.0, 1.0)
    in_front = np.abs(image.astype(np.int16) - background).max(axis=-1) > _IN_FRONT
    alpha = np.where(in_front, 0.0, alpha)[..., None]
    return (alpha * picture + (1.0 - alpha) * image).round().astype(np.uint8)


def whole(episode: Episode) -> EpisodeSlice:
    """All frames of an episode."""
    return EpisodeSlice(episode, np.arange(len(episode), dtype=np.int64))


def _shifted(array: np.ndarray, down: int, right: int) -> np.ndarray:
    """Moved by whole pixels; what leaves is lost, what enters is empty."""
    moved = np.zeros_like(array)
    height, width = array.shape[:2]
    down, right = max(-height, min(down, height)), max(-width, min(right, width))
    kept = array[max(-down, 0) : height - max(down, 0), max(-right, 0) : width - max(right, 0)]
    top, left = max(down, 0), max(right, 0)
    moved[top : top + kept.shape[0], left : left + kept.shape[1]] = kept
    return moved


def _no_source(what: str, instructions: set[str], episodes: Sequence[Episode]) -> UnlearningError:
    known = {episode.instruction for episode in episodes}
    missing = sorted(instructions - known)
    remedy = "record clean episodes of this instruction, or choose another repair source"
    if missing:
        remedy = f"{did_you_mean(missing[0], known)} or {remedy}"
    return UnlearningError(
        ErrorCode.UNLEARNING_EMPTY_RETAIN_SET,
        f"repair source is empty: no {what}",
        value=f"wanted {_quoted(instructions)}",
        limit=f"looked at {len(episodes)} episodes",
        remedy=remedy,
    )


def _quoted(instructions: set[str]) -> str:
    return ", ".join(repr(text) for text in sorted(instructions))
