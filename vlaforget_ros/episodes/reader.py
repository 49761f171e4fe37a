"""rosbag2 to episodes.

Two passes over the bag: the first reads everything but the images and learns which image stamps matter, the
second decodes just those, straight into the arrays of their episodes. With further cameras or a state a third one
reads what was shown beside these images. Whatever had to be left out becomes a
:class:`Problem`; an error is raised only when a bag as a whole is of no use.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from rosbags.serde import SerdeError

from vlaforget_ros.episodes.bags import Bag
from vlaforget_ros.episodes.images import BrokenImage, decode, header_stamp_ns
from vlaforget_ros.episodes.matching import Frames, Usable, usable_actions
from vlaforget_ros.episodes.rollouts import RecordedRollout, collect_rollouts
from vlaforget_ros.episodes.topics import resolve
from vlaforget_ros.episodes.types import Episode, EpisodeReport, Problem, TopicMap
from vlaforget_ros.episodes.views import Track, Views, read_views, track
from vlaforget_ros.errors import UnlearningError


def read_episodes(bag: Path, topics: TopicMap | None = None) -> EpisodeReport:
    """Episodes of one bag.

    Args:
        bag: rosbag2 folder, or a single .mcap or .db3 file.
        topics: names of the topics; the live graph's by default, with one camera and without a state.

    Raises:
        UnlearningError: 300 when one topic is named twice, 301 when the bag is missing or unreadable, or lacks a
            needed topic.
    """
    wanted = topics or TopicMap()
    with Bag(Path(bag)) as opened:
        names = resolve(opened.topics, wanted, opened.path)
        rollouts, problems = collect_rollouts(opened, names)
        usable = [usable_actions(rollout.actions) for rollout in rollouts]
        frames = [Frames(u.actions, cameras=1 + len(names.cameras)) for u in usable]
        tracks = {topic: Track() for topic in names.beside}
        strays = _read_images(opened, names.image, frames, tracks)
        views: list[Views] = []
        if names.beside:
            views = read_views(opened, names, frames, tracks, wanted.stale_after_s)
        episodes: list[Episode] = []
        for index, rollout in enumerate(rollouts):
            problems += _left_out(rollout.rollout_id, usable[index], frames[index], strays[index])
            shown = views[index] if views else None
            problems += [] if shown is None else shown.problems(rollout.rollout_id)
            problems += rollout.problems()
            episode = _episode(rollout, usable[index], frames[index], shown, strays[index], str(bag))
            if len(episode):
                episodes.append(episode)
            else:
                text = "rollout without a single frame"
                problems.append(Problem("episode_empty", rollout.rollout_id, 1, text))
        found = [*opened.problems, *problems]
    return EpisodeReport(tuple(episodes), tuple(_at(problem, str(bag)) for problem in found))


def read_many(bags: Iterable[Path], topics: TopicMap | None = None) -> EpisodeReport:
    """Episodes of several bags in order; a bag that cannot be read becomes a problem.

    The same rollout recorded in two bags counts once, with the frames of the longer recording.

    Raises:
        UnlearningError: 301 when not one of the bags could be read.
    """
    episodes: dict[str, Episode] = {}
    problems: list[Problem] = []
    failures: list[UnlearningError] = []
    read = 0
    for bag in bags:
        try:
            report = read_episodes(bag, topics)
        except UnlearningError as error:
            failures.append(error)
            problems.append(Problem("bag_unreadable", "", 1, str(error), str(bag)))
            continue
        read += 1
        problems += report.problems
        for episode in report.episodes:
            earlier = episodes.get(episode.rollout_id)
            if earlier is not None:
                text = f"rollout is also in {earlier.source}; the longer recording counts"
                problems.append(Problem("rollout_repeated", episode.rollout_id, 1, text, str(bag)))
            if earlier is None or len(episode) > len(earlier):
                episodes[episode.rollout_id] = episode
    if failures and not read:
        raise failures[0]
    return EpisodeReport(tuple(episodes.values()), tuple(problems))


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
    for message in bag.messages((topic, *tracks)):
        if message.topic != topic:
            track(message, tracks)
            continue
        takers: list[tuple[int, int]] = []
        try:
            stamp = header_stamp_ns(message.data)
            takers = [(w, i) for w, i in wanted.get(stamp, ()) if frames[w].takes(i, message.time_ns)]
            if takers:
                image = decode(bag.deserialize(message))
        except (BrokenImage, SerdeError):
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
    states = None if views is None else views.states_of(kept)
    incomplete = len(actions) - len(kept)
    unusable = usable.faulted + usable.non_finite + usable.other_size
    return Episode(
        rollout_id=rollout.rollout_id,
        instruction=rollout.instruction,
        adapter_digest=rollout.adapter_digest,
        images=images,
        actions=np.array([actions[i].action for i in kept], dtype=np.float32).reshape(len(kept), size),
        stamps_ns=np.array([actions[i].observation_ns for i in kept], dtype=np.int64),
        success=rollout.success,
        phase=rollout.phase,
        violations=tuple(sorted(rollout.violations, key=lambda v: v.stamp_ns)),
        source=source,
        dropped_frames=incomplete + unusable + strays,
        states=states,
    )


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
