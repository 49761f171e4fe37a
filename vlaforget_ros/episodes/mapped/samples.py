"""First walk through a foreign bag: when each image was taken, every vector, every event; no pixels."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rosbags.serde import SerdeError

from vlaforget_ros.episodes.images import BrokenImage, header_stamp_ns
from vlaforget_ros.episodes.mapped import fields
from vlaforget_ros.episodes.mapped.mapping import (
    ImageSource,
    OutcomeSource,
    TopicMapping,
    TopicSource,
    VectorSource,
    ViolationSource,
)
from vlaforget_ros.episodes.mapped.topics import MappedTopics
from vlaforget_ros.episodes.storage.bags import Bag
from vlaforget_ros.episodes.storage.message import Message
from vlaforget_ros.errors import ErrorCode, UnlearningError

_Take = Callable[[Message, Any], None]
"""Of a message and its content, which is None where only the first bytes were asked for."""


@dataclass
class Samples:
    """Messages of one topic.

    Attributes:
        topic: its name.
        stamped: whether its type has a stamp.
        times: log times [ns].
        stamps: stamps of the messages [ns]; 0 where there is none.
        other_size: vectors with another number of values than the first.
    """

    topic: str
    stamped: bool = False
    times: array[int] = field(default_factory=lambda: array("q"))
    stamps: array[int] = field(default_factory=lambda: array("q"))
    other_size: int = 0
    width: int = 0
    _numbers: array[float] = field(default_factory=lambda: array("d"))

    def add(self, time_ns: int, stamp_ns: int, vector: np.ndarray | None = None) -> None:
        """One more message; vectors of another size than the first are counted and left out."""
        if vector is not None:
            self.width = self.width or len(vector)
            if len(vector) != self.width or not self.width:
                self.other_size += 1
                return
            self._numbers.frombytes(vector.tobytes())
        self.times.append(time_ns)
        self.stamps.append(stamp_ns)

    @property
    def has_clock(self) -> bool:
        """Whether its stamps can be matched: all zero is what drivers write that never heard of them."""
        return self.stamped and (not self.stamps or any(self.stamps))

    def vectors(self) -> np.ndarray:
        """(N, D) float64."""
        return np.frombuffer(self._numbers, dtype=np.float64).reshape(-1, max(self.width, 1))


@dataclass(frozen=True)
class Event:
    """Something that happened: log time and stamp [ns] (0 for none), and what."""

    time_ns: int
    stamp_ns: int
    value: Any


@dataclass(frozen=True)
class Flag:
    """What a violation message says."""

    rule: str
    text: str


@dataclass
class Recorded:
    """All that the first walk learns."""

    image: Samples
    cameras: list[Samples]
    action: Samples
    state: Samples | None
    instructions: list[Event] = field(default_factory=list)
    outcomes: list[Event] = field(default_factory=list)
    flags: list[Event] = field(default_factory=list)
    broken: Counter[str] = field(default_factory=Counter)


def collect(bag: Bag, names: MappedTopics, mapping: TopicMapping) -> Recorded:
    """Walk through a bag once.

    Args:
        bag: open.
        names: of its topics.
        mapping: what they mean.

    Raises:
        UnlearningError: 300 for fields that the types do not have, 301 for a type that nothing defines.
    """
    walk = _Walk(bag, names, mapping)
    for message in bag.messages(names.all, tuple(walk.heads)):
        try:
            content = None if message.topic in walk.heads else bag.deserialize(message)
            for take in walk.takers[message.topic]:
                take(message, content)
        except (SerdeError, BrokenImage, fields.NoValue):
            walk.found.broken[message.topic] += 1
    return walk.found


class _Walk:
    def __init__(self, bag: Bag, names: MappedTopics, mapping: TopicMapping) -> None:
        self._bag = bag
        self.takers: dict[str, list[_Take]] = {name: [] for name in names.all}
        state = Samples(names.state) if mapping.state is not None else None
        cameras = [Samples(name) for name in names.cameras]
        self.found = Recorded(Samples(names.image), cameras, Samples(names.action), state)
        # Of images the first bytes will do, as long as nothing else is wanted of their topic.
        self.heads = {
            name
            for name, source in zip(
                (names.image, *names.cameras), (mapping.image, *mapping.cameras), strict=True
            )
            if not source.stamp and fields.begins_with_header(bag, bag.topics[name])
        }
        self._sample(self.found.image, mapping.image)
        for samples, source in zip(cameras, mapping.cameras, strict=True):
            self._sample(samples, source)
        self._sample(self.found.action, mapping.action)
        if state is not None and mapping.state is not None:
            self._sample(state, mapping.state)
        self._events(names, mapping)

    def _stamp(self, topic: str, source: str) -> fields.Get | None:
        return fields.stamp(self._bag, self._bag.topics[topic], source)

    def _sample(self, samples: Samples, source: TopicSource) -> None:
        msgtype = self._bag.topics[samples.topic]
        stamp = self._stamp(samples.topic, source.stamp)
        samples.stamped = stamp is not None
        read = None
        if isinstance(source, VectorSource):
            read = fields.numbers(self._bag, msgtype, source.fields, source.names)

        def take(message: Message, content: Any) -> None:
            if content is None:
                samples.add(message.time_ns, header_stamp_ns(message.data))
                return
            vector = None if read is None else read(content)
            samples.add(message.time_ns, 0 if stamp is None else stamp(content), vector)

        if not isinstance(source, ImageSource):
            self._require_whole(samples.topic)
        self.takers[samples.topic].append(take)

    def _events(self, names: MappedTopics, mapping: TopicMapping) -> None:
        told, judged = mapping.instruction, mapping.outcome
        if names.instruction:
            text = self._text(names.instruction, told.field)
            self._event(names.instruction, told.stamp, self.found.instructions, text)
        if names.outcome and judged is not None:
            read = fields.value(self._bag, self._bag.topics[names.outcome], judged.field)
            self._event(names.outcome, judged.stamp, self.found.outcomes, _judge(read, judged))
        for name, source in zip(names.violations, mapping.violations, strict=True):
            if name:
                self._event(name, source.stamp, self.found.flags, self._flag(name, source))

    def _event(self, topic: str, path: str, events: list[Event], read: fields.Get) -> None:
        stamp = self._stamp(topic, path)
        self._require_whole(topic)

        def take(message: Message, content: Any) -> None:
            value = read(content)
            if value is not None:
                events.append(Event(message.time_ns, 0 if stamp is None else stamp(content), value))

        self.takers[topic].append(take)

    def _text(self, topic: str, path: str) -> fields.Get:
        read = fields.value(self._bag, self._bag.topics[topic], path)
        return lambda message: str(read(message)).strip()

    def _flag(self, topic: str, source: ViolationSource) -> fields.Get:
        msgtype = self._bag.topics[topic]
        told, named, said = (
            fields.value(self._bag, msgtype, path) if path else None
            for path in (source.field, source.rule_field, source.text_field)
        )
        before = False

        def read(message: Any) -> Flag | None:
            nonlocal before
            now = told is None or told(message) in source.values
            new = now and (told is None or not before)
            before = now
            if not new:
                return None
            rule = str(named(message)) if named is not None else source.rule
            return Flag(rule or source.rule, "" if said is None else str(said(message)))

        return read

    def _require_whole(self, topic: str) -> None:
        self.heads.discard(topic)


def _judge(read: fields.Get, source: OutcomeSource) -> fields.Get:
    def judge(message: Any) -> bool | None:
        value = read(message)
        if value in source.success:
            return True
        return False if not source.failure or value in source.failure else None

    return judge


def require_clock(recorded: Recorded, mapping: TopicMapping) -> bool:
    """Whether header stamps are the clock, else log times.

    Raises:
        UnlearningError: 300 where the mapping asks for stamps that a topic does not have.
    """
    samples = [recorded.image, *recorded.cameras, recorded.action]
    samples += [recorded.state] if recorded.state is not None else []
    without = [each.topic for each in samples if not each.has_clock]
    if mapping.time == "header" and without:
        raise UnlearningError(
            ErrorCode.UNLEARNING_BAD_REQUEST,
            "mapping says `time: header`, and a topic has no stamps",
            value=", ".join(without),
            limit="header.stamp, or the field that `stamp` names, other than 0",
            remedy="say `time: log`, or name the field with the time in `stamp`",
        )
    return mapping.time != "log" and not without
