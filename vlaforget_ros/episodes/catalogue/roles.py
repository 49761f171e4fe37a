"""Which topic of an open bag plays which part in its episodes, by a topic map or by a mapping file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vlaforget_ros.episodes.mapped.mapping import TopicMapping
from vlaforget_ros.episodes.mapped.topics import MappedTopics, find_topics
from vlaforget_ros.episodes.storage.bags import Bag
from vlaforget_ros.episodes.topics import resolve
from vlaforget_ros.episodes.types import TopicMap


@dataclass(frozen=True)
class Roles:
    """Full names of an episode's topics in one bag.

    Attributes:
        image: main camera.
        action: what the robot was told.
        others: further topics that episodes are read from.
        absent: part -> what it was looked for as, of the optional topics that the bag lacks.
    """

    image: str
    action: str
    others: tuple[str, ...]
    absent: Mapping[str, str]

    @property
    def all(self) -> tuple[str, ...]:
        """Every topic once."""
        return tuple(dict.fromkeys(topic for topic in (self.image, self.action, *self.others) if topic))


def roles(bag: Bag, topics: TopicMap | TopicMapping) -> Roles:
    """The topics of a bag.

    Raises:
        UnlearningError: 301 when a needed topic is missing, or several may be meant.
    """
    if isinstance(topics, TopicMapping):
        return _mapped(find_topics(bag.topics, topics, bag.path), topics)
    found = resolve(bag.topics, topics, bag.path)
    names = topics.names()
    optional = {"outcome": found.outcome, "violation": found.violation}
    return Roles(
        found.image,
        found.action,
        (found.rollout, found.outcome, found.violation, *found.beside),
        {role: names[role] for role, topic in optional.items() if not topic},
    )


def _mapped(found: MappedTopics, mapping: TopicMapping) -> Roles:
    missing = [s.topic for s, topic in zip(mapping.violations, found.violations, strict=True) if not topic]
    absent = {"violation": ", ".join(missing)} if missing else {}
    if mapping.outcome is not None and not found.outcome:
        absent["outcome"] = mapping.outcome.topic
    return Roles(found.image, found.action, found.all, absent)
