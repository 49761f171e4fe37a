"""Rollouts of a foreign bag: which images belong together, and what stood beside each. Pure functions on times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from vlaforget_ros.episodes.mapped.mapping import Cut, Which
from vlaforget_ros.episodes.mapped.samples import Event, Samples
from vlaforget_ros.episodes.storage.losses import NEVER_NS, Loss
from vlaforget_ros.episodes.types import NANOSECONDS

_JUMP_NS = NANOSECONDS // 2
"""Stamps that go back by more than this are another run of a simulation; by less, images in disorder."""


@dataclass(frozen=True, eq=False)
class Images:
    """The main camera's images in the order of the recording.

    Attributes:
        times: (N,) log times [ns].
        clock: (N,) time by which messages are matched [ns]: the stamps, or the log times.
        runs: (N,) number of the run: it grows where the clock jumps back.
    """

    times: np.ndarray
    clock: np.ndarray
    runs: np.ndarray


@dataclass(frozen=True, eq=False)
class Segment:
    """One rollout: its images, what it was told, how it ended.

    Attributes:
        images: (K,) indices into :class:`Images`, in order of the clock.
        instruction: "" where nobody said anything.
        told_ns: log time of the instruction; 0 for one from the mapping.
        success: None where nobody said.
        start_ns: first log time that may belong to it.
        end_ns: last one.
    """

    images: np.ndarray
    instruction: str
    told_ns: int
    success: bool | None
    start_ns: int
    end_ns: int


def images_of(samples: Samples, by_header: bool) -> Images:
    """Images of a topic; they may come in disorder from several files."""
    times, stamps = np.array(samples.times, dtype=np.int64), np.array(samples.stamps, dtype=np.int64)
    order = np.argsort(times, kind="stable")
    times = times[order]
    clock = stamps[order] if by_header else times
    runs = np.zeros(len(times), dtype=np.int64)
    if len(times):
        newest = clock[0]
        for index in range(1, len(times)):
            jumped = clock[index] < newest - _JUMP_NS
            runs[index] = runs[index - 1] + jumped
            newest = clock[index] if jumped else max(newest, clock[index])
    return Images(times, clock, runs)


def segments(
    images: Images, instructions: Sequence[Event], outcomes: Sequence[Event], text: str, cut: Cut
) -> list[Segment]:
    """Cut a recording into rollouts.

    Args:
        images: of the main camera.
        instructions: by log time; empty with ``text``.
        outcomes: by log time; their values are True or False.
        text: the instruction of all, "" where a topic tells.
        cut: where to cut.
    """
    count = len(images.times)
    if not count:
        return []
    told = _last_before(instructions, images.times)
    texts = np.array([instructions[t].value if t >= 0 else text for t in told], dtype=object)
    judged = np.searchsorted([event.time_ns for event in outcomes], images.times, "right")
    breaks = np.diff(images.runs) > 0
    if cut.gap_s > 0:
        breaks |= np.diff(images.clock) > cut.gap_s * NANOSECONDS
    if cut.instruction:
        breaks |= texts[1:] != texts[:-1]
    if cut.outcome:
        breaks |= np.diff(judged) > 0
    starts = [0, *(np.flatnonzero(breaks) + 1).tolist(), count]
    found = []
    for first, behind in pairwise(starts):
        inside = np.arange(first, behind)
        begin = int(images.times[first])
        until = int(images.times[behind]) if behind < count else NEVER_NS
        # What was said after the last image and before the next one is about this rollout.
        said = [event.value for event in outcomes if begin <= event.time_ns < until]
        found.append(
            Segment(
                inside[np.argsort(images.clock[inside], kind="stable")],
                str(texts[first]),
                instructions[told[first]].time_ns if told[first] >= 0 else 0,
                said[-1] if said else None,
                int(images.times[first - 1]) + 1 if first else 0,
                until - 1,
            )
        )
    return found


def doubtful(segment: Segment, losses: Sequence[Loss], instruction: str) -> Loss | None:
    """A loss after which nobody knows whether the instruction still held: another one may have been lost."""
    if not segment.told_ns:
        return None
    between = (loss for loss in losses if segment.told_ns <= loss.end_ns and loss.start_ns < segment.start_ns)
    return next((loss for loss in between if not loss.is_cut and loss.concerns((instruction,))), None)


def match(
    images: Images, wanted: np.ndarray, samples: Samples, by_header: bool, which: Which, tolerance_ns: int
) -> np.ndarray:
    """(K,) index of the message that belongs to each image, -1 for none.

    Args:
        images: of the main camera.
        wanted: (K,) which of them.
        samples: messages of another topic.
        by_header: whether stamps are the clock.
        which: ``nearest``, the first one at or ``after`` the image, or the last one at or ``before`` it.
        tolerance_ns: how far from the image it may be [ns].
    """
    times = np.array(samples.times, dtype=np.int64)
    clock = np.array(samples.stamps, dtype=np.int64) if by_header else times
    found = np.full(len(wanted), -1, dtype=np.int64)
    for run in np.unique(images.runs[wanted]):
        there = np.flatnonzero(images.runs == run)
        begin = images.times[there[0]] if run else 0
        end = images.times[there[-1] + 1] if there[-1] + 1 < len(images.times) else NEVER_NS
        own = np.flatnonzero((times >= begin) & (times < end))
        own = own[np.argsort(clock[own], kind="stable")]
        rows = np.flatnonzero(images.runs[wanted] == run)
        found[rows] = _nearest(images.clock[wanted[rows]], clock[own], own, which, tolerance_ns)
    return found


def _nearest(
    moments: np.ndarray, clock: np.ndarray, own: np.ndarray, which: Which, tolerance_ns: int
) -> np.ndarray:
    if not len(own):
        return np.full(len(moments), -1, dtype=np.int64)
    after = np.searchsorted(clock, moments, "left")
    before = np.searchsorted(clock, moments, "right") - 1
    to_after = np.where(after < len(own), clock[np.minimum(after, len(own) - 1)] - moments, NEVER_NS)
    to_before = np.where(before >= 0, moments - clock[np.maximum(before, 0)], NEVER_NS)
    # Of two that are equally near, the later one: an action follows its image.
    later = to_after <= to_before if which == "nearest" else np.full(len(moments), which == "after")
    chosen = np.where(later, after, before)
    distance = np.where(later, to_after, to_before)
    good = distance <= tolerance_ns
    return np.where(good, own[np.clip(chosen, 0, len(own) - 1)], -1)


def _last_before(events: Sequence[Event], times: np.ndarray) -> np.ndarray:
    return np.searchsorted([event.time_ns for event in events], times, "right") - 1
