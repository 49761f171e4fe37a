"""Which topic of an open bag plays which part in its episodes, by a topic map or by a mapping file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vlaforget_ros.episodes.bags import Bag
from vlaforget_ros.episodes.mapping import TopicMapping
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
        UnlearningError: 301 when a needed topic is missing, by a topic map.
    """
    if isinstance(topics, TopicMapping):
        return _mapped(bag.topics, topics)
    found = resolve(bag.topics, topics, bag.path)
    names = topics.names()
    optional = {"outcome": found.outcome, "violation": found.violation}
    return Roles(
        found.image,
        found.action,
        (found.rollout, found.outcome, found.violation, *found.beside),
        {role: names[role] for role, topic in optional.items() if not topic},
    )


def _mapped(found: Mapping[str, str], mapping: TopicMapping) -> Roles:
    def full(name: str) -> str:
        if mapping.namespace.strip("/") and not name.startswith("/"):
            name = f"/{mapping.namespace.strip('/')}/{name}"
        if name in found:
            return name
        return next((topic for topic in sorted(found) if topic.endswith(f"/{name.lstrip('/')}")), "")

    optional: dict[str, str] = {}
    for source in mapping.violations:
        optional["violation"] = source.topic
    if mapping.outcome:
        optional["outcome"] = mapping.outcome.topic
    if mapping.instruction.topic:
        optional["instruction"] = mapping.instruction.topic
    beside = [camera.topic for camera in mapping.cameras] + ([mapping.state.topic] if mapping.state else [])
    named = [source.topic for source in mapping.violations] + [*optional.values(), *beside]
    return Roles(
        full(mapping.image.topic),
        full(mapping.action.topic),
        tuple(full(name) for name in named),
        {role: name for role, name in optional.items() if not full(name)},
    )
