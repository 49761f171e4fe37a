"""Which topics of a bag a mapping file means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vlaforget_ros.episodes.mapped.mapping import TopicMapping
from vlaforget_ros.episodes.messages import COMPRESSED_IMAGE, IMAGE
from vlaforget_ros.errors import ErrorCode, UnlearningError, did_you_mean


@dataclass(frozen=True)
class MappedTopics:
    """Full names in one bag; "" for one that was not asked for, or is optional and was not recorded."""

    image: str
    action: str
    cameras: tuple[str, ...] = ()
    state: str = ""
    instruction: str = ""
    outcome: str = ""
    violations: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[str, ...]:
        """Every topic once."""
        names = (self.image, *self.cameras, self.action, self.state, self.instruction, self.outcome)
        return tuple(dict.fromkeys(name for name in (*names, *self.violations) if name))


def find_topics(found: Mapping[str, str], mapping: TopicMapping, bag: Path) -> MappedTopics:
    """Find the topics of a mapping among those of a bag.

    Args:
        found: topic to message type, as recorded.
        mapping: what is meant; outcome and violations may be missing.
        bag: for error texts.

    Raises:
        UnlearningError: 301 when a topic is missing, has another type, or is ambiguous.
    """
    finder = _Finder(found, mapping.namespace.strip("/"), bag)
    images = (IMAGE, COMPRESSED_IMAGE)
    instruction = mapping.instruction.topic
    return MappedTopics(
        image=finder.find(mapping.image.topic, mapping.image.type, images),
        action=finder.find(mapping.action.topic, mapping.action.type),
        cameras=tuple(finder.find(camera.topic, camera.type, images) for camera in mapping.cameras),
        state="" if mapping.state is None else finder.find(mapping.state.topic, mapping.state.type),
        instruction=finder.find(instruction) if instruction else "",
        outcome=""
        if mapping.outcome is None
        else finder.find(mapping.outcome.topic, mapping.outcome.type, needed=False),
        violations=tuple(finder.find(v.topic, v.type, needed=False) for v in mapping.violations),
    )


@dataclass(frozen=True)
class _Finder:
    found: Mapping[str, str]
    namespace: str
    bag: Path

    def find(self, name: str, msgtype: str = "", types: tuple[str, ...] = (), needed: bool = True) -> str:
        names = self._named(name)
        if not names and COMPRESSED_IMAGE in types:
            names = self._named(f"{name}/compressed")
        fitting = [
            n for n in names if msgtype in ("", self.found[n]) and (not types or self.found[n] in types)
        ]
        if len(fitting) == 1:
            return fitting[0]
        if not fitting and not names and not needed:
            return ""
        if not fitting:
            wanted = msgtype or " or ".join(types)
            there = ", ".join(f"{n} ({t})" for n, t in sorted(self.found.items())) or "no topics"
            raise UnlearningError(
                ErrorCode.UNLEARNING_BAG_UNREADABLE,
                f"bag has no topic {name}{f' of type {wanted}' if wanted and names else ''}: {self.bag}",
                value=f"found {there}",
                limit=f"{name}{f' ({wanted})' if wanted else ''} of the mapping file",
                remedy=did_you_mean(name, self.found) + "; `vlaforget episodes map` proposes a mapping",
            )
        raise UnlearningError(
            ErrorCode.UNLEARNING_BAG_UNREADABLE,
            f"several topics match {name}: {self.bag}",
            value=", ".join(fitting),
            limit="one topic",
            remedy="write the full name with a slash in front, or set `namespace` in the mapping file",
        )

    def _named(self, name: str) -> list[str]:
        if name.startswith("/"):
            return [name] if name in self.found else []
        if self.namespace:
            full = f"/{self.namespace}/{name}"
            return [full] if full in self.found else []
        exact = [topic for topic in (f"/{name}", name) if topic in self.found]
        return exact[:1] or sorted(topic for topic in self.found if topic.endswith(f"/{name}"))
