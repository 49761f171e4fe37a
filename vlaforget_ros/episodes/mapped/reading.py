"""Episodes of a bag that knows nothing of this package, by a mapping file.

The first walk learns all but the pixels: from that rollouts are cut, and each image gets its action. The second walk
decodes just the images that became frames.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vlaforget_ros.episodes.mapped.cuts import Images, Segment, doubtful, images_of, match, segments
from vlaforget_ros.episodes.mapped.images import Pictures, read_pictures
from vlaforget_ros.episodes.mapped.mapping import TopicMapping, Which
from vlaforget_ros.episodes.mapped.samples import Event, Flag, Recorded, Samples, collect, require_clock
from vlaforget_ros.episodes.mapped.topics import MappedTopics, find_topics
from vlaforget_ros.episodes.mapped.units import to_action, to_state
from vlaforget_ros.episodes.storage.bags import Bag
from vlaforget_ros.episodes.storage.losses import Hole, hole_problem
from vlaforget_ros.episodes.types import (
    NANOSECONDS,
    Episode,
    EpisodeInfo,
    EpisodeReport,
    Phase,
    Problem,
    ScanReport,
    Violation,
)


@dataclass(frozen=True, eq=False)
class _Frames:
    """Frames of one rollout: (K,) images, and for each topic the index of its message."""

    images: np.ndarray
    beside: dict[str, np.ndarray]
    actions: np.ndarray
    states: np.ndarray | None


@dataclass(frozen=True, eq=False)
class _Planned:
    """One rollout before its images are decoded."""

    info: dict[str, Any]
    frames: _Frames
    hole: Hole | None


def read_mapped(
    bag: Path, mapping: TopicMapping, rollouts: Collection[str] | None = None, damaged: bool = False
) -> EpisodeReport:
    """As :func:`read_episodes`, by a mapping.

    Raises:
        UnlearningError: 300 where the mapping does not fit the bag's types, 301 for an unreadable bag, a missing topic
            or an image encoding that is not known.
    """
    with Bag(Path(bag)) as opened:
        plan = _Plan(opened, mapping, damaged)
        chosen = [p for p in plan.rollouts if rollouts is None or p.info["rollout_id"] in rollouts]
        pictures = read_pictures(
            opened,
            mapping,
            plan.names,
            [{topic: plan.moments(topic, p.frames.beside[topic]) for topic in plan.pictured} for p in chosen],
        )
        episodes: list[Episode] = []
        problems = plan.problems()
        for planned, shown in zip(chosen, pictures, strict=True):
            problems += shown.problems(planned.info["rollout_id"])
            if (episode := _episode(planned, shown)) is not None:
                episodes.append(episode)
        problems = [*opened.problems, *problems]
    return EpisodeReport(tuple(_at(problem, str(bag)) for problem in problems), tuple(episodes))


def scan_mapped(bag: Path, mapping: TopicMapping, damaged: bool = False) -> ScanReport:
    """As :func:`scan_episodes`, by a mapping. Raises as :func:`read_mapped`."""
    with Bag(Path(bag)) as opened:
        plan = _Plan(opened, mapping, damaged)
        problems = [*opened.problems, *plan.problems()]
        infos = tuple(EpisodeInfo(**planned.info) for planned in plan.rollouts)
    return ScanReport(tuple(_at(problem, str(bag)) for problem in problems), infos)


@dataclass(frozen=True, eq=False)
class MappedGlimpse:
    """Some frames of a rollout.

    Attributes:
        info: of the whole rollout.
        actions: (T, A) float32 of the whole rollout.
        indices: (K,) increasing indices of the frames whose images could be read.
        images: (K, H, W, 3) uint8 RGB of the main camera.
    """

    info: EpisodeInfo
    actions: np.ndarray
    indices: np.ndarray
    images: np.ndarray


def glimpse_mapped(
    bag: Path, mapping: TopicMapping, rollout: str, choose: Callable[[EpisodeInfo], np.ndarray]
) -> MappedGlimpse | None:
    """Some images of one rollout, damaged or not: no others are decoded or held.

    Args:
        bag: as for :func:`read_mapped`.
        mapping: what its topics mean.
        rollout: its id.
        choose: which frames.

    Returns:
        None for a rollout that the bag does not have.

    Raises:
        UnlearningError: as :func:`read_mapped`.
    """
    with Bag(Path(bag)) as opened:
        plan = _Plan(opened, mapping, damaged=True)
        planned = next((p for p in plan.rollouts if p.info["rollout_id"] == rollout), None)
        if planned is None:
            return None
        info = EpisodeInfo(**planned.info)
        indices = choose(info)
        topic = plan.names.image
        moments = plan.moments(topic, planned.frames.beside[topic][indices])
        names, main = replace(plan.names, cameras=()), mapping.model_copy(update={"cameras": ()})
        (shown,) = read_pictures(opened, main, names, [{topic: moments}])
        kept = shown.complete()
        return MappedGlimpse(info, planned.frames.actions, indices[kept], shown.images(kept))


class _Plan:
    """What the first walk found, cut and matched."""

    def __init__(self, bag: Bag, mapping: TopicMapping, damaged: bool) -> None:
        self._bag, self._mapping = bag, mapping
        self.names: MappedTopics = find_topics(bag.topics, mapping, bag.path)
        self._recorded: Recorded = collect(bag, self.names, mapping)
        self._by_header = require_clock(self._recorded, mapping)
        self._images: Images = images_of(self._recorded.image, self._by_header)
        self._problems: list[Problem] = []
        self.pictured = (self.names.image, *self.names.cameras)
        told, judged = self._recorded.instructions, self._recorded.outcomes
        self._segments = segments(self._images, told, judged, mapping.instruction.text, mapping.cut)
        self._flags = self._by_segment()
        planned = [self._planned(number, segment) for number, segment in enumerate(self._segments)]
        self.rollouts = [p for p in planned if p is not None and (damaged or p.hole is None)]

    def moments(self, topic: str, indices: np.ndarray) -> np.ndarray:
        """(K, 2) stamps and log times of a camera's messages [ns]."""
        if topic == self.names.image:
            order = np.argsort(np.array(self._recorded.image.times), kind="stable")
            samples, indices = self._recorded.image, order[indices]
        else:
            samples = self._recorded.cameras[self.names.cameras.index(topic)]
        stamps, times = np.array(samples.stamps, dtype=np.int64), np.array(samples.times, dtype=np.int64)
        return np.column_stack([stamps[indices], times[indices]])

    def problems(self) -> list[Problem]:
        """What was left out so far."""
        found = [
            Problem("messages_broken", "", count, f"{count} messages of {topic} cannot be read")
            for topic, count in self._recorded.broken.items()
        ]
        for samples in (self._recorded.action, self._recorded.state):
            if samples is not None and samples.other_size:
                text = f"{samples.other_size} messages of {samples.topic} have another number of values"
                found.append(Problem("actions_other_size", "", samples.other_size, text))
        if not self._segments:
            found.append(Problem("images_missing", "", 1, f"no image on {self.names.image}"))
        return [*found, *self._problems]

    def _by_segment(self) -> dict[int, list[Violation]]:
        starts = [int(self._images.times[s.images.min()]) for s in self._segments]
        found: dict[int, list[Violation]] = {}
        for event in sorted(self._recorded.flags, key=lambda e: e.time_ns):
            number = max(int(np.searchsorted(starts, event.time_ns, "right")) - 1, 0)
            flag: Flag = event.value
            violation = Violation(flag.rule, "WARN", self._clock(event), 0.0, 0.0, "", flag.text)
            found.setdefault(number, []).append(violation)
        return found

    def _clock(self, event: Event) -> int:
        """An event in the clock of the images: by its stamp, else as long after an image as it was logged after it."""
        if not self._by_header or not len(self._images.times):
            return event.time_ns
        if event.stamp_ns:
            return event.stamp_ns
        index = max(int(np.searchsorted(self._images.times, event.time_ns, "right")) - 1, 0)
        return int(self._images.clock[index]) + event.time_ns - int(self._images.times[index])

    def _planned(self, number: int, segment: Segment) -> _Planned | None:
        first = int(self._images.clock[segment.images[0]])
        name = self._bag.path.name.split(".")[0]
        rollout_id = f"{name}-{number:03d}@{first / NANOSECONDS:.3f}"
        if not segment.instruction:
            text = f"{len(segment.images)} images before anybody gave an instruction"
            self._problems.append(
                Problem("frames_without_instruction", rollout_id, len(segment.images), text)
            )
            return None
        if len(segment.images) < self._mapping.cut.min_frames:
            count, least = len(segment.images), self._mapping.cut.min_frames
            text = f"{count} images are no rollout (`min_frames` is {least})"
            self._problems.append(Problem("episode_short", rollout_id, count, text))
            return None
        frames = self._frames(segment, rollout_id)
        if not len(frames.images):
            self._problems.append(Problem("episode_empty", rollout_id, 1, "rollout without a single frame"))
            return None
        hole = self._hole(segment)
        if hole is not None:
            self._problems.append(hole_problem(rollout_id, hole))
        success = segment.success
        phase = Phase.ABORTED if success is None else (Phase.SUCCEEDED if success else Phase.FAILED)
        info = {
            "rollout_id": rollout_id,
            "instruction": segment.instruction,
            "adapter_digest": "",
            "stamps_ns": self._images.clock[frames.images],
            "success": success,
            "phase": phase,
            "violations": tuple(sorted(self._flags.get(number, ()), key=lambda v: v.stamp_ns)),
            "source": str(self._bag.path),
            "dropped_frames": len(segment.images) - len(frames.images),
            "damage": "" if hole is None else hole.what,
        }
        return _Planned(info, frames, hole)

    def _hole(self, segment: Segment) -> Hole | None:
        hole = self._bag.hole(self.names.all, segment.start_ns, segment.end_ns)
        if hole is None and (loss := doubtful(segment, self._bag.losses, self.names.instruction)) is not None:
            return Hole(None, f"its instruction may have changed: {loss.what}")
        return hole

    def _matched(
        self, segment: Segment, samples: Samples, which: Which, tolerance_s: float | None
    ) -> np.ndarray:
        tolerance = self._mapping.tolerance_s if tolerance_s is None else tolerance_s
        span = round(tolerance * NANOSECONDS)
        return match(self._images, segment.images, samples, self._by_header, which, span)

    def _frames(self, segment: Segment, rollout_id: str) -> _Frames:
        mapping, recorded = self._mapping, self._recorded
        images = segment.images
        # Of several images with one stamp the first one counts.
        good = np.concatenate([[True], np.diff(self._images.clock[images]) > 0])
        self._drop("images_repeated", rollout_id, ~good, "images with a stamp already seen")
        action = self._matched(segment, recorded.action, mapping.action.match, mapping.action.tolerance_s)
        self._drop("frames_without_action", rollout_id, good & (action < 0), self._near("action"))
        good &= action >= 0
        beside = {self.names.image: images}
        for samples, source in zip(recorded.cameras, mapping.cameras, strict=True):
            found = self._matched(segment, samples, source.match, source.tolerance_s)
            self._drop("frames_without_camera", rollout_id, good & (found < 0), self._near(samples.topic))
            good &= found >= 0
            beside[samples.topic] = found
        states = None
        if recorded.state is not None and mapping.state is not None:
            found = self._matched(segment, recorded.state, mapping.state.match, mapping.state.tolerance_s)
            self._drop("frames_without_state", rollout_id, good & (found < 0), self._near("state"))
            good &= found >= 0
            states = to_state(_taken(recorded.state, found), mapping.state)
            finite = np.isfinite(states).all(axis=1)
            self._drop("state_broken", rollout_id, good & ~finite, "frames with a state that is not finite")
            good &= finite
        # The difference to the next image's pose; where that one has none, neither has this frame.
        following = np.where(np.append(action[1:], -1) >= 0, np.arange(1, len(images) + 1), -1)
        actions = to_action(_taken(recorded.action, action), following, mapping.action)
        made = np.isfinite(actions).all(axis=1)
        last = good & (following < 0) if mapping.action.delta else np.zeros(len(images), dtype=bool)
        self._drop("frames_without_next", rollout_id, last, "images with no pose after them to go to")
        self._drop(
            "actions_non_finite", rollout_id, good & ~made & ~last, "frames whose action cannot be made"
        )
        good &= made
        kept = np.flatnonzero(good)
        return _Frames(
            images[kept],
            {topic: indices[kept] for topic, indices in beside.items()},
            actions[kept],
            None if states is None else states[kept],
        )

    def _near(self, what: str) -> str:
        return f"images without {what} near enough"

    def _drop(self, kind: str, rollout_id: str, dropped: np.ndarray, text: str) -> None:
        count = int(dropped.sum())
        if count:
            self._problems.append(Problem(kind, rollout_id, count, f"{count} {text}"))


def _taken(samples: Samples, indices: np.ndarray) -> np.ndarray:
    """(K, D) values; NaN where there is no message."""
    vectors = samples.vectors()
    if not len(vectors):
        return np.full((len(indices), max(samples.width, 1)), np.nan)
    found = vectors[np.maximum(indices, 0)].copy()
    found[indices < 0] = np.nan
    return found


def _episode(planned: _Planned, shown: Pictures) -> Episode | None:
    kept = shown.complete()
    if not len(kept):
        return None
    info = dict(planned.info)
    info["stamps_ns"] = info["stamps_ns"][kept]
    info["dropped_frames"] += len(planned.frames.images) - len(kept)
    states = planned.frames.states
    return Episode(
        **info,
        images=shown.images(kept),
        actions=planned.frames.actions[kept],
        states=None if states is None else states[kept],
    )


def _at(problem: Problem, source: str) -> Problem:
    return Problem(problem.kind, problem.rollout_id, problem.count, problem.message, source)
