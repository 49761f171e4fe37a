"""rosbag2 to episodes.

Two passes over the bag: the first reads everything but the images and learns which image stamps matter, the
second decodes just those, straight into the arrays of their episodes. With further cameras or a state a third one
reads what was shown beside these images. Whatever had to be left out becomes a
:class:`Problem`; an error is raised only when a bag as a whole is of no use.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

import numpy as np
from rosbags.rosbag2.errors import ReaderError
from rosbags.serde import SerdeError

from vlaforget_ros.episodes.images import BrokenImage, decode, header_stamp_ns
from vlaforget_ros.episodes.lerobot.layout import is_lerobot
from vlaforget_ros.episodes.mapped.mapping import TopicMapping
from vlaforget_ros.episodes.mapped.reading import read_mapped, scan_mapped
from vlaforget_ros.episodes.matching import Frames, Usable, usable_actions
from vlaforget_ros.episodes.rollouts import RecordedRollout, collect_rollouts, spans
from vlaforget_ros.episodes.sightings import Sightings, assign
from vlaforget_ros.episodes.storage.bags import Bag
from vlaforget_ros.episodes.storage.losses import Hole, hole_problem
from vlaforget_ros.episodes.storage.message import Message
from vlaforget_ros.episodes.topics import Topics, resolve
from vlaforget_ros.episodes.types import (
    Episode,
    EpisodeInfo,
    EpisodeReport,
    Problem,
    ScanReport,
    TopicMap,
)
from vlaforget_ros.episodes.views import Track, Views, read_views, track
from vlaforget_ros.errors import UnlearningError

_Known = TypeVar("_Known", bound=EpisodeInfo, covariant=True)


class _Report(Protocol[_Known]):
    @property
    def problems(self) -> tuple[Problem, ...]: ...

    @property
    def episodes(self) -> tuple[_Known, ...]: ...


def read_episodes(
    bag: Path,
    topics: TopicMap | TopicMapping | None = None,
    rollouts: Collection[str] | None = None,
    *,
    damaged: bool = False,
) -> EpisodeReport:
    """Episodes of one bag.

    Args:
        bag: rosbag2 folder, a single .mcap or .db3 file, or a LeRobot data set (docs/lerobot.md).
        topics: names of the topics, the live graph's by default, with one camera and without a state; or what the
            topics of somebody else's bag mean (:func:`read_mapping`).
        rollouts: ids of the rollouts to read; all by default. Images of the others are never held in memory.
        damaged: also give rollouts that a damaged bag lost something of; otherwise they are only named.

    Raises:
        UnlearningError: 300 when one topic is named twice, 301 when the bag is missing or unreadable, or lacks a
            needed topic.
    """
    if is_lerobot(Path(bag)):
        from vlaforget_ros.episodes.lerobot.reading import read_as_bag

        return read_as_bag(Path(bag), _names(topics), rollouts)
    if isinstance(topics, TopicMapping):
        return read_mapped(Path(bag), topics, rollouts, damaged)
    wanted = topics or TopicMap()
    with Bag(Path(bag)) as opened:
        found = _collect(opened, resolve(opened.topics, wanted, opened.path), rollouts)
        names, frames = found.names, found.frames
        tracks = {topic: Track() for topic in names.beside}
        strays = _read_images(opened, names.image, frames, tracks)
        views: list[Views] = []
        if names.beside:
            views = read_views(opened, names, frames, tracks, wanted.stale_after_s)
        episodes: list[Episode] = []
        problems = found.problems
        holes = damage(opened, names, found.rollouts)
        for index, rollout in enumerate(found.rollouts):
            problems += _left_out(rollout.rollout_id, found.usable[index], frames[index], strays[index])
            shown = views[index] if views else None
            problems += [] if shown is None else shown.problems(rollout.rollout_id)
            problems += rollout.problems()
            episode = _episode(rollout, found.usable[index], frames[index], shown, strays[index], str(bag))
            hole = holes.get(rollout.rollout_id)
            problems += [] if hole is None else [hole_problem(rollout.rollout_id, hole)]
            if hole is not None and len(episode):
                episode = replace(episode, damage=hole.what)
            if len(episode) and (damaged or hole is None):
                episodes.append(episode)
            elif not len(episode):
                problems.append(_empty(rollout))
        problems = [*opened.problems, *problems]
    return EpisodeReport(tuple(_at(problem, str(bag)) for problem in problems), tuple(episodes))


def scan_episodes(
    bag: Path, topics: TopicMap | TopicMapping | None = None, *, damaged: bool = False
) -> ScanReport:
    """What one bag holds, without decoding an image: quick, and small in memory however long the bag is.

    An image that cannot be decoded still counts as a frame here, and so does a compressed one of another size than the
    others; further cameras and the state are not looked at.

    Args:
        bag: as for :func:`read_episodes`.
        topics: as for :func:`read_episodes`.
        damaged: as for :func:`read_episodes`.

    Raises:
        UnlearningError: as :func:`read_episodes`.
    """
    if is_lerobot(Path(bag)):
        from vlaforget_ros.episodes.lerobot.reading import scan_as_bag

        return scan_as_bag(Path(bag), _names(topics))
    if isinstance(topics, TopicMapping):
        return scan_mapped(Path(bag), topics, damaged)
    with Bag(Path(bag)) as opened:
        found = survey(opened, topics or TopicMap(), damaged=damaged)
    return ScanReport(found.problems, tuple(info for info in found.infos if info is not None))


def _names(topics: TopicMap | TopicMapping | None) -> TopicMap:
    """What a LeRobot data set is asked for: a mapping file is about bags."""
    return topics if isinstance(topics, TopicMap) else TopicMap()


@dataclass
class _Found:
    """What the first pass over a bag learns."""

    names: Topics
    rollouts: list[RecordedRollout]
    usable: list[Usable]
    frames: list[Frames]
    problems: list[Problem]


@dataclass(frozen=True)
class Survey:
    """What one walk through a bag tells without its images.

    Attributes:
        names: the topics.
        infos: of each rollout; None for one without a single frame, or that a damaged bag lost something of.
        usable: its actions.
        frames: what is known of its images.
        sightings: all images.
        chosen: frame to the number of its image among them.
        tracks: of each topic beside the image, where they were asked for.
        problems: what was left out.
    """

    names: Topics
    infos: list[EpisodeInfo | None]
    usable: list[Usable]
    frames: list[Frames]
    sightings: Sightings
    chosen: list[dict[int, int]]
    tracks: dict[str, Track]
    problems: tuple[Problem, ...]


def survey(bag: Bag, wanted: TopicMap, beside: bool = False, damaged: bool = False) -> Survey:
    """Everything but the images, in one walk: of a compressed bag it takes about as long as reading it.

    Args:
        bag: open.
        wanted: names of the topics.
        beside: note the messages of further cameras and of the state as well.
        damaged: as for :func:`read_episodes`.

    Raises:
        UnlearningError: as :func:`read_episodes`.
    """
    names = resolve(bag.topics, wanted, bag.path)
    sightings = Sightings()
    tracks = {topic: Track() for topic in names.beside} if beside else {}
    found = _collect(
        bag, names, None, {names.image: sightings.note, **{t: partial(track, tracks=tracks) for t in tracks}}
    )
    seen = assign(sightings, found.frames)
    stamps = np.sort(np.array(seen.unmatched, dtype=np.int64))
    infos: list[EpisodeInfo | None] = []
    problems = found.problems
    holes = damage(bag, names, found.rollouts)
    for rollout, usable, frames in zip(found.rollouts, found.usable, found.frames, strict=True):
        stray = _between(stamps, frames)
        problems += _left_out(rollout.rollout_id, usable, frames, stray) + rollout.problems()
        kept = frames.matched()
        hole = holes.get(rollout.rollout_id)
        what = "" if hole is None else hole.what
        problems += [] if hole is None else [hole_problem(rollout.rollout_id, hole)]
        problems += [] if len(kept) else [_empty(rollout)]
        given = len(kept) and (damaged or hole is None)
        known = _info(rollout, usable, kept, stray, str(bag.path)) if given else {}
        infos.append(EpisodeInfo(**known, damage=what) if given else None)
    problems = [*bag.problems, *problems]
    located = tuple(_at(problem, str(bag.path)) for problem in problems)
    return Survey(names, infos, found.usable, found.frames, sightings, seen.chosen, tracks, located)


def _collect(
    bag: Bag,
    names: Topics,
    only: Collection[str] | None,
    beside: Mapping[str, Callable[[Message], None]] = MappingProxyType({}),
) -> _Found:
    rollouts, problems = collect_rollouts(bag, names, beside)
    if only is not None:
        rollouts = [rollout for rollout in rollouts if rollout.rollout_id in only]
    usable = [usable_actions(rollout.actions) for rollout in rollouts]
    frames = [Frames(u.actions, cameras=1 + len(names.cameras)) for u in usable]
    return _Found(names, rollouts, usable, frames, problems)


def read_many(bags: Iterable[Path], topics: TopicMap | TopicMapping | None = None) -> EpisodeReport:
    """Episodes of several bags in order; a bag that cannot be read becomes a problem.

    The same rollout recorded in two bags counts once, with the frames of the longer recording.

    Raises:
        UnlearningError: 301 when not one of the bags could be read.
    """
    problems, episodes = merged(bags, lambda bag: read_episodes(bag, topics))
    return EpisodeReport(problems, episodes)


def scan_many(bags: Iterable[Path], topics: TopicMap | TopicMapping | None = None) -> ScanReport:
    """As :func:`read_many`, without decoding an image: see :func:`scan_episodes`."""
    problems, episodes = merged(bags, lambda bag: scan_episodes(bag, topics))
    return ScanReport(problems, episodes)


def merged(
    bags: Iterable[Path], read: Callable[[Path], _Report[_Known]]
) -> tuple[tuple[Problem, ...], tuple[_Known, ...]]:
    """Problems and episodes of several bags, as ``read`` gives them for each: see :func:`read_many`."""
    episodes: dict[str, _Known] = {}
    problems: list[Problem] = []
    failures: list[UnlearningError] = []
    some = False
    for bag in bags:
        try:
            report = read(bag)
        except UnlearningError as error:
            failures.append(error)
            problems.append(Problem("bag_unreadable", "", 1, str(error), str(bag)))
            continue
        some = True
        problems += report.problems
        for episode in report.episodes:
            earlier = episodes.get(episode.rollout_id)
            if earlier is not None:
                text = f"rollout is also in {earlier.source}; the longer recording counts"
                problems.append(Problem("rollout_repeated", episode.rollout_id, 1, text, str(bag)))
            if earlier is None or len(episode) > len(earlier):
                episodes[episode.rollout_id] = episode
    if failures and not some:
        raise failures[0]
    return tuple(problems), tuple(episodes.values())


def _read_images(bag: Bag, topic: str, frames: list[Frames], tracks: Mapping[str, Track]) -> list[int]:
    """Fill the frames, and the tracks of the topics beside the image.

    Returns:
        how many images between each rollout's first and last action had none.
    """
    wanted: dict[int, list[tuple[int, int]]] = {}
    for which, frame in enumerate(frames):
        for index, action in enumerate(frame.wanted):
            wanted.setdefault(action.observation_ns, []).append((which, index))
    unmatched: list[int] = []
    # An image that nobody takes is not read.
    for message in bag.messages((topic, *tracks), (topic, *tracks)):
        if message.topic != topic:
            track(message, tracks)
            continue
        takers: list[tuple[int, int]] = []
        try:
            stamp = header_stamp_ns(message.data)
            takers = [(w, i) for w, i in wanted.get(stamp, ()) if frames[w].takes(i, message.time_ns)]
            if takers:
                image = decode(bag.deserialize(message.whole()))
        except (BrokenImage, SerdeError, ReaderError):
            for which, _ in takers:
                frames[which].broken += 1
            continue
        for which, index in takers:
            frames[which].put(index, message.time_ns, image)
        if stamp not in wanted:
            unmatched.append(stamp)
    stamps = np.sort(np.array(unmatched, dtype=np.int64))
    return [_between(stamps, frame) for frame in frames]


def _between(stamps: np.ndarray, frames: Frames) -> int:
    if not frames.wanted:
        return 0
    first, last = frames.wanted[0].observation_ns, frames.wanted[-1].observation_ns
    return int(np.searchsorted(stamps, last, "right") - np.searchsorted(stamps, first, "left"))


def _episode(
    rollout: RecordedRollout, usable: Usable, frames: Frames, views: Views | None, strays: int, source: str
) -> Episode:
    kept = frames.matched() if views is None else views.matched()
    actions = usable.actions
    size = actions[0].action.size if actions else 0
    images = frames.images if frames.images is not None else np.zeros((0, 0, 0, 3), dtype=np.uint8)
    if len(kept) < len(images):
        images = images[kept]
    return Episode(
        **_info(rollout, usable, kept, strays, source),
        images=images,
        actions=np.array([actions[i].action for i in kept], dtype=np.float32).reshape(len(kept), size),
        states=None if views is None else views.states_of(kept),
    )


def _info(
    rollout: RecordedRollout, usable: Usable, kept: np.ndarray, strays: int, source: str
) -> dict[str, Any]:
    """Fields of an :class:`EpisodeInfo` with the frames ``kept``."""
    incomplete = len(usable.actions) - len(kept)
    unusable = usable.faulted + usable.non_finite + usable.other_size
    return {
        "rollout_id": rollout.rollout_id,
        "instruction": rollout.instruction,
        "adapter_digest": rollout.adapter_digest,
        "stamps_ns": np.array([usable.actions[i].observation_ns for i in kept], dtype=np.int64),
        "success": rollout.success,
        "phase": rollout.phase,
        "violations": tuple(sorted(rollout.violations, key=lambda v: v.stamp_ns)),
        "source": source,
        "dropped_frames": incomplete + unusable + strays,
    }


def damage(bag: Bag, names: Topics, rollouts: Sequence[RecordedRollout]) -> dict[str, Hole]:
    """Rollouts that a damaged bag lost something of; ask when their topics were read."""
    topics = (names.rollout, names.action, names.image, names.outcome, names.violation, *names.beside)
    found = {}
    for rollout, (start_ns, end_ns) in zip(rollouts, spans(rollouts), strict=True):
        if (hole := bag.hole(topics, start_ns, end_ns)) is not None:
            found[rollout.rollout_id] = hole
    return found


def _empty(rollout: RecordedRollout) -> Problem:
    return Problem("episode_empty", rollout.rollout_id, 1, "rollout without a single frame")


def _left_out(rollout_id: str, usable: Usable, frames: Frames, strays: int) -> list[Problem]:
    without_image = len(frames.wanted) - len(frames.matched())
    counts = (
        ("actions_without_image", without_image, "actions whose image is not in the bag"),
        ("images_without_action", strays, "images during the rollout that no action answers"),
        ("actions_faulted", usable.faulted, "actions with a fault"),
        ("actions_non_finite", usable.non_finite, "actions that are empty or not finite"),
        ("actions_repeated", usable.repeated, "further actions for an image already answered"),
        ("actions_other_size", usable.other_size, "actions with another number of values than the first"),
        ("images_repeated", frames.repeated, "further images with a stamp already seen"),
        ("images_broken", frames.broken, "images that cannot be decoded"),
        ("images_other_size", frames.other_size, "images of another size than the first"),
    )
    return [Problem(kind, rollout_id, count, f"{count} {text}") for kind, count, text in counts if count]


def _at(problem: Problem, source: str) -> Problem:
    return Problem(problem.kind, problem.rollout_id, problem.count, problem.message, source)
