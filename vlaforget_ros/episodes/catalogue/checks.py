"""Looking through a bag before it is used: gaps, rates, clocks, topics, damage, and what each of them costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np
import yaml

from vlaforget_ros.episodes.catalogue.cadence import Cadence, cadence
from vlaforget_ros.episodes.catalogue.findings import MEANING, Finding, finding_of
from vlaforget_ros.episodes.catalogue.roles import Roles, roles
from vlaforget_ros.episodes.images import BrokenImage, header_stamp_ns
from vlaforget_ros.episodes.mapped.mapping import TopicMapping
from vlaforget_ros.episodes.reader import read_episodes, scan_episodes
from vlaforget_ros.episodes.storage.bags import Bag
from vlaforget_ros.episodes.types import NANOSECONDS, EpisodeInfo, Problem, TopicMap
from vlaforget_ros.errors import UnlearningError

JUMP_S = 1.0
"""Stamp and log time may drift apart from one message to the next by this much; more is a clock that was set."""
RATE_SHARE = 0.1
"""An episode's rate may differ from the nominal one by this share."""
# Images held at once while all are decoded.
_FRAMES_AT_ONCE = 1000
_OPTIONAL = {
    "outcome": "success is taken from how the rollouts ended",
    "violation": "no violation is known: every episode looks clean",
}


@dataclass
class TopicFacts:
    """One topic of an episode as it was recorded.

    Attributes:
        topic: full name.
        msgtype: type of its messages.
        log_ns: log time of each message.
        stamp_ns: header stamp of each message, in the same order; empty where the type has no header.
    """

    topic: str
    msgtype: str
    log_ns: list[int] = field(default_factory=list)
    stamp_ns: list[int] = field(default_factory=list)

    @property
    def cadence(self) -> Cadence:
        """Rate and gaps by log time."""
        return cadence(np.array(self.log_ns, dtype=np.int64))


@dataclass(frozen=True)
class BagCheck:
    """What a look through one bag found; ``findings`` is empty when nothing is wrong.

    Attributes:
        bag: its path.
        episodes: that can be used.
        frames: that can be used.
        checked: whether checksums cover every message: without them a flipped bit in a message is not seen.
        topics: those of an episode.
        findings: what is wrong.
    """

    bag: str
    episodes: int
    frames: int
    checked: bool
    topics: tuple[TopicFacts, ...]
    findings: tuple[Finding, ...]

    @property
    def frames_lost(self) -> int:
        """Frames that cannot be used, as far as that can be told."""
        return sum(finding.frames_lost for finding in self.findings)

    @property
    def episodes_lost(self) -> int:
        """Episodes that cannot be used, as far as that can be told."""
        return sum(finding.episodes_lost for finding in self.findings)


def check_bag(
    bag: Path,
    topics: TopicMap | TopicMapping | None = None,
    *,
    rate_hz: float | None = None,
    decode: bool = False,
) -> BagCheck:
    """Look through one bag; a bag that cannot be read is a finding, too.

    Args:
        bag: folder or file.
        topics: names of the topics, as for ``read_episodes``; or what ``read_mapping`` gives.
        rate_hz: nominal rate of the frames; without one episodes are compared with each other.
        decode: decode every image, and match further cameras and the state where ``topics`` names some.
    """
    wanted = topics or TopicMap()
    try:
        with Bag(Path(bag)) as opened:
            names = roles(opened, wanted)
            facts, checked = _walk(opened, names), opened.checked
            expected = _expected(opened, [fact.topic for fact in facts])
        report = scan_episodes(bag, wanted, damaged=True)
        problems, episodes = report.problems, tuple(info for info in report.episodes if not info.damage)
        if decode:
            problems, episodes = _decoded(Path(bag), wanted, episodes)
    except UnlearningError as error:
        failed = Problem("bag_unreadable", "", 1, str(error), str(bag))
        return BagCheck(str(bag), 0, 0, False, (), (finding_of(failed),))
    found = [
        *(_with_frames(finding_of(problem), report.episodes) for problem in problems),
        *_lost(str(bag), names, facts, expected),
        *_absent(str(bag), names, facts),
        *_clocks(str(bag), facts),
        *_gaps(episodes),
        *_rates(episodes, rate_hz),
    ]
    frames = sum(len(episode) for episode in episodes)
    return BagCheck(str(bag), len(episodes), frames, checked, tuple(facts), tuple(found))


def _walk(bag: Bag, names: Roles) -> list[TopicFacts]:
    facts = {topic: TopicFacts(topic, bag.topics[topic]) for topic in names.all}
    stamped = {topic for topic, fact in facts.items() if _has_header(bag, fact.msgtype)}
    for message in bag.messages(tuple(facts), heads=tuple(facts)):
        fact = facts[message.topic]
        fact.log_ns.append(message.time_ns)
        if message.topic in stamped:
            try:
                fact.stamp_ns.append(header_stamp_ns(message.data))
            except BrokenImage:
                fact.log_ns.pop()
    return list(facts.values())


def _has_header(bag: Bag, msgtype: str) -> bool:
    try:
        return bag.fields(msgtype)[0][0] == "header"
    except (UnlearningError, IndexError):
        return False


def _expected(bag: Bag, topics: Sequence[str]) -> dict[str, int]:
    """Messages of each topic that the recorder says it wrote, where it says so."""
    counts = {topic: bag.count((topic,)) for topic in topics}
    try:
        text = (bag.path / "metadata.yaml").read_text(encoding="utf-8")
        listed = yaml.safe_load(text)["rosbag2_bagfile_information"]["topics_with_message_count"]
        said = {str(t["topic_metadata"]["name"]): int(t["message_count"]) for t in listed}
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return counts
    return {topic: max(count, said.get(topic, 0)) for topic, count in counts.items()}


def _decoded(
    bag: Path, topics: TopicMap | TopicMapping, episodes: Sequence[EpisodeInfo]
) -> tuple[tuple[Problem, ...], tuple[EpisodeInfo, ...]]:
    problems: dict[Problem, None] = {}
    infos: list[EpisodeInfo] = []
    for group in _groups(episodes) or [[]]:
        report = read_episodes(bag, topics, rollouts=group or None)
        problems |= dict.fromkeys(report.problems)
        names = [f.name for f in fields(EpisodeInfo)]
        infos += [EpisodeInfo(**{name: getattr(e, name) for name in names}) for e in report.episodes]
    return tuple(problems), tuple(infos)


def _groups(episodes: Sequence[EpisodeInfo]) -> list[list[str]]:
    groups: list[list[str]] = []
    frames = _FRAMES_AT_ONCE
    for episode in episodes:
        if frames + len(episode) > _FRAMES_AT_ONCE:
            groups.append([])
            frames = 0
        groups[-1].append(episode.rollout_id)
        frames += len(episode)
    return groups


def _with_frames(finding: Finding, episodes: Sequence[EpisodeInfo]) -> Finding:
    """The frames of a damaged episode are lost with it."""
    if finding.kind != "episode_damaged":
        return finding
    frames = sum(len(info) for info in episodes if info.damage and info.rollout_id == finding.place)
    return replace(finding, frames_lost=frames)


def _lost(bag: str, names: Roles, facts: Sequence[TopicFacts], expected: dict[str, int]) -> Iterator[Finding]:
    for fact in facts:
        count = expected[fact.topic] - len(fact.log_ns)
        if count > 0:
            yield Finding(
                "topic_incomplete",
                bag,
                fact.topic,
                count,
                f"{count} of {expected[fact.topic]} messages that were recorded cannot be read",
                "episodes with these messages are shorter, or missing",
                "copy the bag again if there is another copy; what is lost cannot be restored",
                frames_lost=count if fact.topic == names.image else 0,
            )


def _absent(bag: str, names: Roles, facts: Sequence[TopicFacts]) -> Iterator[Finding]:
    remedy = MEANING["episode_empty"][1]
    for role, consequence in _OPTIONAL.items():
        if role in names.absent:
            text = f"no {role} topic was recorded"
            yield Finding("topic_missing", bag, names.absent[role], 1, text, consequence, remedy)
    for fact in facts:
        if not fact.log_ns and fact.topic in (names.image, names.action):
            text, consequence = "topic without a message", "there is no episode"
            yield Finding("topic_empty", bag, fact.topic, 1, text, consequence, remedy)


def _clocks(bag: str, facts: Sequence[TopicFacts]) -> Iterator[Finding]:
    for fact in facts:
        stamps, logs = (np.array(times, dtype=np.int64) for times in (fact.stamp_ns, fact.log_ns))
        steps = np.diff(stamps)
        back = steps < 0
        if np.any(back):
            count, most = int(np.sum(back)), float(-steps.min()) / NANOSECONDS
            yield Finding(
                "stamps_backwards",
                bag,
                fact.topic,
                count,
                f"stamps go back {count} times, by {most:.3f} s at most",
                "frames are ordered by their stamps; a window around a violation may take the wrong ones",
                "one bag for each start of the simulation; do not set clocks while recording (chrony or PTP)",
            )
        if len(stamps) != len(logs):
            continue
        apart = np.abs(np.diff(logs - stamps))
        jumps = (apart > JUMP_S * NANOSECONDS) & ~back
        if np.any(jumps):
            count, most = int(np.sum(jumps)), float(apart[jumps].max()) / NANOSECONDS
            yield Finding(
                "clock_jump",
                bag,
                fact.topic,
                count,
                f"stamps and log times jump apart {count} times, by {most:.3f} s at most",
                "a clock was set, or messages waited: stamps before and after do not compare",
                "synchronise the clocks of the camera's and the recording machine (chrony or PTP)",
            )


def _gaps(episodes: Sequence[EpisodeInfo]) -> Iterator[Finding]:
    for episode in episodes:
        found = cadence(episode.stamps_ns)
        if found.gaps:
            yield Finding(
                "frame_gap",
                episode.source,
                episode.rollout_id,
                found.gaps,
                f"{found.gaps} gaps between frames, {found.longest_s:.2f} s at most",
                f"about {found.missing} frames are not there; those around the gaps are used",
                "see the actions and images without a partner; lower the load, or the camera's rate",
            )


def _rates(episodes: Sequence[EpisodeInfo], nominal_hz: float | None) -> Iterator[Finding]:
    rates = {episode.rollout_id: cadence(episode.stamps_ns).median_hz for episode in episodes}
    known = [rate for rate in rates.values() if rate > 0.0]
    if not known:
        return
    usual = nominal_hz or float(np.median(known))
    for episode in episodes:
        rate = rates[episode.rollout_id]
        if rate > 0.0 and abs(rate - usual) > RATE_SHARE * usual:
            kind = "nominal rate" if nominal_hz else "other episodes' rate"
            yield Finding(
                "rate_off",
                episode.source,
                episode.rollout_id,
                1,
                f"{rate:.2f} Hz, the {kind} is {usual:.2f} Hz",
                "an action moves the arm for another time than the policy was trained for",
                "leave the episode out of the request, or record at the policy's rate",
            )


def check_bags(
    bags: Sequence[Path],
    topics: TopicMap | TopicMapping | None = None,
    *,
    rate_hz: float | None = None,
    decode: bool = False,
    on_bag: Callable[[int, int, str], None] = lambda done, total, name: None,
) -> list[BagCheck]:
    """:func:`check_bag` of several bags, with a callback before each."""
    found = []
    for number, bag in enumerate(bags):
        on_bag(number, len(bags), bag.name)
        found.append(check_bag(bag, topics, rate_hz=rate_hz, decode=decode))
    on_bag(len(bags), len(bags), "")
    return found
