"""Bags to LeRobot data sets and back, an episode at a time."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from vlaforget_ros.episodes.lerobot.reading import LeRobotReader
from vlaforget_ros.episodes.lerobot.writing import LeRobotWriter, Written, rate_of
from vlaforget_ros.episodes.reader import read_episodes, scan_episodes
from vlaforget_ros.episodes.selection import Selection, describe
from vlaforget_ros.episodes.types import (
    NANOSECONDS,
    Episode,
    EpisodeInfo,
    Problem,
    TopicMap,
)
from vlaforget_ros.episodes.writer import EpisodeWriter
from vlaforget_ros.errors import ErrorCode, UnlearningError

Update = Callable[[int, int, str], None]
"""Told how many episodes are done, of how many, and the last one's id."""

_BATCH_BYTES = 256 * 1024 * 1024
_PAUSE_NS = NANOSECONDS + NANOSECONDS // 10


@dataclass(frozen=True)
class Exported:
    """A data set that was written, and what of the bags is not in it."""

    written: Written
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class Imported:
    """A bag that was written, and what of the data set is not in it.

    Attributes:
        bag: its folder.
        episodes: how many.
        frames: how many.
        topics: of the cameras and the state.
        actions: numbers of an action.
        problems: what is not in it.
    """

    bag: Path
    episodes: int
    frames: int
    topics: tuple[str, ...]
    actions: int
    problems: tuple[Problem, ...]


def export_bags(
    bags: Sequence[Path],
    out: Path,
    *,
    topics: TopicMap | None = None,
    selection: Selection | None = None,
    fps: int | None = None,
    video: bool = True,
    robot: str | None = None,
    update: Update | None = None,
) -> Exported:
    """Write the episodes of bags as a LeRobot data set.

    ``next.success`` is written where every episode has a verdict.

    Args:
        bags: rosbag2 folders or files; the same rollout in two of them counts once, with the longer recording.
        out: folder to make.
        topics: which topics of the bags are cameras and state.
        selection: which episodes; whole ones, so windows and ``max_frames`` do not count.
        fps: frames a second; by default the median of the episodes.
        video: mp4, else PNG.
        robot: kind of robot.
        update: is told the progress.

    Raises:
        UnlearningError: 300 as :class:`LeRobotWriter`, or when no episode is selected; 301 when no bag can be read;
            310 when the folder exists or cannot be written.
    """
    wanted = topics or TopicMap()
    chosen, problems = _choose(bags, wanted, selection or Selection.model_validate({}))
    rate = fps or rate_of(info for infos in chosen.values() for info in infos)
    everything = [info for infos in chosen.values() for info in infos]
    cameras = (wanted.image, *wanted.cameras)
    outcomes = all(info.success is not None for info in everything)
    with LeRobotWriter(out, rate, video=video, cameras=cameras, outcomes=outcomes, robot=robot) as writer:
        done = 0
        for bag, infos in chosen.items():
            for episode in _in_batches(bag, infos, wanted, problems):
                writer.add(episode)
                done += 1
                if update is not None:
                    update(done, len(everything), episode.rollout_id)
        return Exported(writer.finish(), tuple(problems))


def _choose(
    bags: Sequence[Path], topics: TopicMap, selection: Selection
) -> tuple[dict[Path, list[EpisodeInfo]], list[Problem]]:
    """Episodes to take from each bag, from what is known without their images."""
    longest: dict[str, tuple[Path, EpisodeInfo]] = {}
    problems: list[Problem] = []
    failures: list[UnlearningError] = []
    for bag in bags:
        try:
            report = scan_episodes(bag, topics)
        except UnlearningError as error:
            failures.append(error)
            problems.append(Problem("bag_unreadable", "", 1, str(error), str(bag)))
            continue
        for info in report.episodes:
            earlier = longest.get(info.rollout_id)
            if earlier is None or len(info) > len(earlier[1]):
                longest[info.rollout_id] = (bag, info)
    if failures and len(failures) == len(bags):
        raise failures[0]
    chosen: dict[Path, list[EpisodeInfo]] = {}
    for bag, info in longest.values():
        if selection.matches(info):
            chosen.setdefault(bag, []).append(info)
    if not chosen:
        raise UnlearningError(
            ErrorCode.UNLEARNING_BAD_REQUEST,
            "no episode is selected",
            value=selection.model_dump(exclude_defaults=True) or "everything",
            limit=f"looked at {describe([info for _, info in longest.values()])}",
            remedy="loosen the selection",
        )
    return chosen, problems


def _in_batches(
    bag: Path, infos: Sequence[EpisodeInfo], topics: TopicMap, problems: list[Problem]
) -> Iterator[Episode]:
    """Episodes of one bag, as many at once as fit into some memory: each batch is a pass over the bag."""
    frame_bytes = _BATCH_BYTES
    left = list(infos)
    while left:
        batch = [left.pop(0)]
        while left and (sum(map(len, batch)) + len(left[0])) * frame_bytes <= _BATCH_BYTES:
            batch.append(left.pop(0))
        names = {info.rollout_id for info in batch}
        report = read_episodes(bag, topics, rollouts=names)
        problems += [problem for problem in report.problems if problem.rollout_id in names]
        for episode in report.episodes:
            frame_bytes = max(1, episode.images.nbytes // max(1, len(episode)))
            yield episode


def import_dataset(
    reader: LeRobotReader,
    out: Path,
    *,
    indices: Iterable[int] | None = None,
    camera_topics: Sequence[str] = (),
    state_topic: str = "policy_state",
    storage: Literal["mcap", "sqlite3"] = "mcap",
    compressed: Literal["", "png", "jpeg"] = "png",
    update: Update | None = None,
) -> Imported:
    """Write the episodes of a data set as a bag with the topics of the live graph.

    The main camera becomes ``image``. Stamps are kept where they grow through the whole bag; otherwise an episode is
    moved behind the one before it.

    Args:
        reader: the open data set.
        out: folder to make.
        indices: ``episode_index`` of those to take; all by default.
        camera_topics: topics of the further cameras; by default ``image_`` and the last part of the feature's name.
        state_topic: topic of the state, where one is read.
        storage: of the bag.
        compressed: "" for raw images, ``png`` (exact) or ``jpeg``.
        update: is told the progress.

    Raises:
        UnlearningError: 300 for another number of topics than of further cameras; 301 when not one episode can be
            read; 310 when the folder exists or cannot be written.
    """
    further = _topics_of(reader.cameras[1:], camera_topics)
    wanted = reader.indices if indices is None else list(indices)
    topic = state_topic if reader.state else ""
    next_ns = -1
    done = frames = actions = 0
    writer: EpisodeWriter | None = None
    try:
        for episode in reader.read(wanted):
            if writer is None:
                start = int(episode.stamps_ns[0])
                writer = EpisodeWriter(
                    out, storage=storage, compressed=compressed, cameras=further, state=topic, start_ns=start
                )
            shift = max(0, next_ns - int(episode.stamps_ns[0]))
            write_episode(writer, episode, shift)
            next_ns = int(episode.stamps_ns[-1]) + shift + _PAUSE_NS
            done, frames, actions = done + 1, frames + len(episode), episode.actions.shape[1]
            if update is not None:
                update(done, max(done, len(wanted)), episode.rollout_id)
    except BaseException:
        if writer is not None:
            writer.close()
            shutil.rmtree(out, ignore_errors=True)
        raise
    if writer is not None:
        writer.close()
    if not done:
        raise UnlearningError(
            ErrorCode.UNLEARNING_BAG_UNREADABLE,
            "not one episode of the data set can be read",
            value="; ".join(dict.fromkeys(p.message for p in reader.problems)) or "no episodes",
            limit=f"{len(reader.indices)} episodes listed",
            remedy="download the data set again",
        )
    topics = ("image", *further, *([topic] if topic else []))
    return Imported(out, done, frames, topics, actions, tuple(reader.problems))


def write_episode(writer: EpisodeWriter, episode: Episode, shift_ns: int = 0) -> None:
    """One episode into an open bag, its violations among the frames where they happened.

    Args:
        writer: the bag.
        episode: with as many cameras as the bag has, and a state if it has one.
        shift_ns: added to every stamp.

    Raises:
        UnlearningError: 300 when the stamps do not grow, or cameras and state do not fit the bag.
    """
    writer.begin(episode.rollout_id, episode.instruction, episode.adapter_digest)
    due = list(episode.violations)
    for index, stamp in enumerate(episode.stamps_ns.tolist()):
        while due and due[0].stamp_ns < stamp:
            _violation(writer, due.pop(0), shift_ns)
        views: Sequence[np.ndarray] = [episode.view(camera)[index] for camera in range(episode.cameras)]
        state = None if episode.states is None else episode.states[index]
        writer.frame(views, episode.actions[index], stamp + shift_ns, state=state)
    for violation in due:
        _violation(writer, violation, shift_ns)
    writer.end(episode.success, episode.phase)


def _violation(writer: EpisodeWriter, violation: object, shift_ns: int) -> None:
    values = dict(vars(violation))
    stamp = max(0, values.pop("stamp_ns") + shift_ns)
    writer.violation(values.pop("rule"), stamp_ns=stamp, **values)


def _topics_of(cameras: Sequence[str], given: Sequence[str]) -> tuple[str, ...]:
    if given and len(given) != len(cameras):
        raise UnlearningError(
            ErrorCode.UNLEARNING_BAD_REQUEST,
            "another number of topics than of further cameras",
            value=", ".join(given),
            limit=f"{len(cameras)}: {', '.join(cameras) or 'none'}",
            remedy="name one topic for each camera but the first",
        )
    if given:
        return tuple(given)
    parts = [re.sub(r"\W", "_", camera.rpartition(".")[2]) for camera in cameras]
    return tuple(part if part.startswith("image_") else f"image_{part}" for part in parts)
