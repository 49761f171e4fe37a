"""The original policy as a teacher: what it would do if the cause of the undesired behaviour were not there.

The policy under edit knows the right behaviour: it shows it without the trigger, or under the neighbour's
instruction. Asking it on recorded images costs forward passes only, and reaches states that no recorded episode
of the right behaviour visits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from vlaforget_ros.episodes.counterfactual import paste, view_of
from vlaforget_ros.episodes.dataset import FrameSet, frames_of
from vlaforget_ros.episodes.trigger import Trigger, median_picture
from vlaforget_ros.episodes.types import EpisodeSlice
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.unlearning.metrics import actions_of


@dataclass(frozen=True)
class Answer:
    """What should have been done on N forget frames.

    Args:
        desired: (N, A). Where it is not known the recorded action stands in: nothing is pushed away that is
            not known to be wrong.
        known: the frames for which it is known, with these actions; None where it is known for none.
    """

    desired: np.ndarray
    known: FrameSet | None


def without_trigger(
    policy: VlaPolicy,
    forget: Sequence[EpisodeSlice],
    clean: Sequence[EpisodeSlice],
    triggers: Sequence[Trigger],
) -> Answer:
    """Answers on the forget frames with the trigger painted over; unknown where an episode shows none.

    With several cameras it is painted over in each in which it was found.
    """
    frames = frames_of(forget)
    covers = {part.episode.instruction: part.episode for part in clean}
    images, known = frames.images.copy(), np.zeros(len(frames), dtype=bool)
    for part in forget:
        rows = np.flatnonzero(frames.episodes == part.episode.rollout_id)
        for trigger in triggers:
            if trigger.rollout_id != part.episode.rollout_id:
                continue
            camera = trigger.camera
            cover = replace(trigger, picture=median_picture(covers[part.episode.instruction], camera))
            view = view_of(images, camera)
            view[rows] = _painted(view[rows], median_picture(part.episode, camera), cover)
            known[rows] = True
    desired = frames.actions.copy()
    if not known.any():
        return Answer(desired, None)
    desired[known] = actions_of(policy, replace(frames, images=images).take(known))
    origin = f"the original policy on {known.sum()} forget frames with the trigger painted over"
    return Answer(desired, replace(frames, actions=desired).take(known, origin))


def told_otherwise(policy: VlaPolicy, forget: Sequence[EpisodeSlice], instruction: str) -> Answer:
    """Answers on the forget frames under the safe ``instruction``."""
    frames = frames_of(forget)
    desired = actions_of(policy, _told(frames, [instruction]))
    origin = f"the original policy on the forget frames, told {instruction!r}"
    return Answer(desired, replace(frames, actions=desired, origin=origin))


def neighbours_told(
    policy: VlaPolicy, forget: Sequence[EpisodeSlice], boundary: Sequence[EpisodeSlice], instruction: str
) -> FrameSet:
    """Near neighbours' frames under the unsafe instructions, with the answers to the safe ``instruction``."""
    frames = frames_of(boundary)
    actions = actions_of(policy, _told(frames, [instruction]))
    unsafe = sorted({part.episode.instruction for part in forget})
    origin = f"the original policy on near neighbours' frames, told {instruction!r}"
    return replace(_told(frames, unsafe), actions=actions, origin=origin)


def anchors(policy: VlaPolicy, forget: Sequence[EpisodeSlice], boundary: Sequence[EpisodeSlice]) -> FrameSet:
    """The forget frames under the instructions of near neighbours, with the answers to these: to be kept.

    Where an instruction is the cause, what is seen is innocent: the very same images under another instruction
    must go on leading to what they led to.
    """
    texts = sorted({part.episode.instruction for part in boundary})
    frames = _told(frames_of(forget), texts)
    origin = f"forget frames told {', '.join(repr(text) for text in texts)}"
    return replace(frames, actions=actions_of(policy, frames), origin=origin)


def as_now(policy: VlaPolicy, frames: FrameSet, origin: str) -> FrameSet:
    """Frames with what the policy does on them at present: to be kept."""
    return replace(frames, actions=actions_of(policy, frames), desired=None, origin=origin)


def _told(frames: FrameSet, texts: Sequence[str]) -> FrameSet:
    """The same frames under other instructions, in turn."""
    return replace(frames, instructions=tuple(texts[row % len(texts)] for row in range(len(frames))))


def _painted(images: np.ndarray, background: np.ndarray, cover: Trigger) -> np.ndarray:
    return np.stack([paste(image, background, cover) for image in images])
