"""The same monitor over recorded bags: what it says of them, and what it could not judge."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rosbags.serde import SerdeError

from vlaforget_ros.episodes.messages import ROLLOUT, ROLLOUT_OUTCOME, SAFETY_VIOLATION, TOPIC_TYPES
from vlaforget_ros.episodes.storage.bags import Bag
from vlaforget_ros.episodes.storage.message import Message
from vlaforget_ros.episodes.types import Problem
from vlaforget_ros.errors import ErrorCode, SafetyError
from vlaforget_ros.safety.config import SafetyConfig
from vlaforget_ros.safety.events import Event
from vlaforget_ros.safety.feed import TOLD, feed
from vlaforget_ros.safety.monitor import SafetyMonitor
from vlaforget_ros.safety.rules.registry import inputs_of
from vlaforget_ros.safety.samples import INPUTS
from vlaforget_ros.safety.totals import Breakdown

NANOSECONDS = 1_000_000_000
TICK_NS = NANOSECONDS // 20
"""Period at which time passes for rules about what does not arrive, as in the live node."""

_PAUSE_NS = 660 * NANOSECONDS  # longer than the longest silence that a rule can wait for

_TOLD_TYPES = {"rollout": ROLLOUT, "outcome": ROLLOUT_OUTCOME, "safety/violation": SAFETY_VIOLATION}


@dataclass(frozen=True)
class Found:
    """An event with the moment at which it was seen.

    Args:
        event: what the monitor says.
        time_ns: receipt of the message, or the tick, that made it [ns].
        bag: path of the bag.
        namespace: robot's namespace in that bag, "" for none.
    """

    event: Event
    time_ns: int
    bag: str
    namespace: str


@dataclass(frozen=True)
class RuleCount:
    """One row of the table: what a rule said.

    Args:
        rule: rule id.
        count: events.
        first_s: stamp of the first one [s], None without any.
        rollouts: rollouts in which it was broken, in order.
        judged: samples it judged.
        not_judged: why it judged none, "" when it judged some.
    """

    rule: str
    count: int
    first_s: float | None
    rollouts: tuple[str, ...]
    judged: int
    not_judged: str


@dataclass(frozen=True)
class Replay:
    """What a monitor says of bags.

    Args:
        found: the events, in order.
        rules: one row a rule, in file order, then rules of others that were flagged.
        breakdown: rates by adapter, with exact intervals.
        messages: messages that the monitor was given.
        problems: what in the bags could not be read.
    """

    found: tuple[Found, ...]
    rules: tuple[RuleCount, ...]
    breakdown: tuple[Breakdown, ...]
    messages: int
    problems: tuple[Problem, ...]

    def document(self) -> dict[str, Any]:
        """All of it as a value for JSON; numbers that are not finite become null."""
        events = [
            {
                **asdict(one.event),
                "severity": one.event.severity.name,
                "time_ns": one.time_ns,
                "bag": one.bag,
            }
            for one in self.found
        ]
        value = {
            "messages": self.messages,
            "rules": [asdict(row) for row in self.rules],
            "events": events,
            "adapters": [asdict(one) for one in self.breakdown],
            "problems": [asdict(problem) for problem in self.problems],
        }
        cleaned: dict[str, Any] = finite(value)
        return cleaned


class BagClock:
    """The steady clock of a replay: receipt times of the bag, carried on without a step from bag to bag."""

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> float:
        return self.now_ns / NANOSECONDS


class Replayer:
    """Plays bags to one monitor, in order of receipt.

    Args:
        config: rules.
        namespace: of the robot, where a bag has several; None where it has one.
        recorded: also hear violations that were recorded (of the monitor that ran then, of operators and of
            simulators), as the live monitor did; False judges anew.
    """

    def __init__(self, config: SafetyConfig, namespace: str | None = None, recorded: bool = True) -> None:
        self._config = config
        self._clock = BagClock()
        self.monitor = SafetyMonitor(config, self._clock)
        self._namespace = namespace
        told = TOLD if recorded else TOLD[:2]
        self._wanted = {
            **{name: TOPIC_TYPES[name] for name in config.inputs() if name in TOPIC_TYPES},
            **{name: (_TOLD_TYPES[name],) for name in told},
        }
        self._seen: set[str] = set()
        self._absent: set[str] = set()
        self._found: list[Found] = []
        self._messages = 0
        self._problems: list[Problem] = []

    def play(self, path: Path, progress: Callable[[int, int], None] | None = None) -> None:
        """Play one bag.

        Args:
            path: folder or file.
            progress: called with (messages played, all).

        Raises:
            UnlearningError: 301 for a bag that cannot be read.
            SafetyError: 401 for a bag of several robots without a namespace.
        """
        with Bag(path) as bag:
            topics, home = choose(bag.topics, self._wanted, self._namespace, path)
            self._seen.update(topics.values())
            # A topic that was not recorded is no silent sensor.
            self._absent = INPUTS.keys() - topics.values()
            total, broken, last_ns, rollout = bag.count(topics), 0, 0, b""
            for number, (message, step_ns) in enumerate(_in_time(bag, topics), 1):
                self._pass_time(step_ns, message.time_ns, path, home)
                if topics[message.topic] == "rollout":
                    # Each file of a split bag says again what runs; the arm did not begin again.
                    repeated, rollout = rollout == message.data, bytes(message.data)
                    if repeated:
                        continue
                try:
                    content = bag.deserialize(message)
                except SerdeError:
                    broken += 1
                    continue
                self._messages += 1
                last_ns = message.time_ns
                self._keep(feed(self.monitor, topics[message.topic], content), last_ns, path, home)
                if progress is not None:
                    progress(number, max(total, number))
            if broken:
                text = f"{broken} messages are damaged and were left out"
                self._problems.append(Problem("messages_broken", "", broken, text, str(path)))
            self._problems += bag.problems

    def result(self) -> Replay:
        """What the bags so far amount to."""
        rates = self.monitor.rates.breakdown()
        return Replay(tuple(self._found), self._rows(), rates, self._messages, tuple(self._problems))

    def _pass_time(self, step_ns: int, time_ns: int, path: Path, home: str) -> None:
        """Move the clock on to a message, ticking at every period on the way."""
        goal = self._clock.now_ns + step_ns
        # A pause of hours, or a recorder whose clock was set, is not ticked through in full.
        start = max(self._clock.now_ns, goal - _PAUSE_NS)
        tick = (start // TICK_NS + 1) * TICK_NS
        while tick <= goal:
            self._clock.now_ns = tick
            self._keep(self.monitor.tick(self._absent), time_ns - (goal - tick), path, home)
            tick += TICK_NS
        self._clock.now_ns = goal

    def _keep(self, events: tuple[Event, ...], time_ns: int, path: Path, home: str) -> None:
        self._found += [Found(event, time_ns, str(path), home) for event in events]

    def _rows(self) -> tuple[RuleCount, ...]:
        silent = {settings.id: settings for settings in self.monitor.unjudged()}
        counts = self.monitor.readings()
        ids = [*self._config.rule_ids(), *(one.event.rule for one in self._found)]
        rows = []
        for rule in dict.fromkeys(ids):
            mine = [one.event for one in self._found if one.event.rule == rule]
            rollouts = tuple(dict.fromkeys(event.rollout_id for event in mine if event.rollout_id))
            why = ""
            if rule in silent:
                lacking = [name for name in inputs_of(silent[rule]) if name not in self._seen]
                why = f"no {', '.join(lacking)} in the bag" if lacking else "its samples allowed no judgement"
            first = mine[0].stamp_s if mine else None
            rows.append(RuleCount(rule, len(mine), first, rollouts, counts.get(rule, 0), why))
        return tuple(rows)


def choose(
    found: Mapping[str, str], wanted: Mapping[str, Sequence[str]], namespace: str | None, path: Path
) -> tuple[dict[str, str], str]:
    """Which topics of a bag are meant.

    Args:
        found: topic to message type.
        wanted: relative name to the types it may have.
        namespace: of the robot, None when the bag has one only.
        path: of the bag, for messages.

    Returns:
        Full topic to relative name, and the robot's namespace.

    Raises:
        SafetyError: 401 when the topics are of several robots.
    """
    chosen: dict[str, str] = {}
    homes: dict[str, str] = {}
    for name, types in wanted.items():
        there = {
            topic[: -len(name)].strip("/"): topic
            for topic, msgtype in found.items()
            if msgtype in types and f"/{topic.lstrip('/')}".endswith(f"/{name}")
        }
        if namespace is not None:
            # What stands outside every namespace (a driver's joint_states) belongs to each robot.
            there = {home: topic for home, topic in there.items() if home in (namespace.strip("/"), "")}
            if len(there) > 1:
                del there[""]
        if len(there) > 1:
            raise _several(there, path)
        for home, topic in there.items():
            chosen[topic], homes[name] = name, home
    # The robot is where its rollouts are; a sensor may stand elsewhere.
    order = ("rollout", *homes)
    return chosen, next((homes[name] for name in order if name in homes), "")


def _several(there: Mapping[str, str], path: Path) -> SafetyError:
    return SafetyError(
        ErrorCode.SAFETY_STALE_INPUT,
        f"the bag holds several robots: {path}",
        value=", ".join(f"/{home}" for home in sorted(there)),
        limit="one namespace",
        remedy="name one of them with --namespace",
    )


def _in_time(bag: Bag, topics: Mapping[str, str]) -> Iterator[tuple[Message, int]]:
    """Messages with the time since the one before [ns]; receipt times that go back count as no time."""
    before: int | None = None
    for message in bag.messages(topics):
        yield message, max(0, message.time_ns - before) if before is not None else 0
        before = message.time_ns if before is None else max(before, message.time_ns)


def finite(value: Any) -> Any:
    """A value for JSON: numbers that are not finite become null."""
    if isinstance(value, dict):
        return {str(key): finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
