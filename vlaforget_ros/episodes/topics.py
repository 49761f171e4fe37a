"""Which topics of a bag are meant: by name, by type, and with several robots by namespace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vlaforget_ros.episodes.messages import (
    COMPRESSED_IMAGE,
    IMAGE,
    POLICY_ACTION,
    ROLLOUT,
    ROLLOUT_OUTCOME,
    SAFETY_VIOLATION,
)
from vlaforget_ros.episodes.types import TopicMap
from vlaforget_ros.errors import ErrorCode, UnlearningError

_TYPES: dict[str, tuple[str, ...]] = {
    "rollout": (ROLLOUT,),
    "action": (POLICY_ACTION,),
    "image": (IMAGE, COMPRESSED_IMAGE),
    "outcome": (ROLLOUT_OUTCOME,),
    "violation": (SAFETY_VIOLATION,),
}
_NEEDED = ("rollout", "action", "image")


@dataclass(frozen=True)
class Topics:
    """Full names of an episode's topics in one bag; "" for an optional one that was not recorded."""

    rollout: str
    action: str
    image: str
    outcome: str
    violation: str


def resolve(found: Mapping[str, str], wanted: TopicMap, bag: Path) -> Topics:
    """Find the topics of ``wanted`` among those of a bag.

    Args:
        found: topic to message type, as recorded.
        wanted: relative names, and perhaps a namespace.
        bag: for error texts.

    Raises:
        UnlearningError: 301 when a needed topic is missing or has another type, or there are several robots.
    """
    names = wanted.names()
    namespace = wanted.namespace.strip("/") if wanted.namespace is not None else None
    chosen: dict[str, str] = {}
    for role, types in _TYPES.items():
        candidates = _candidates(found, names[role].strip("/"), types, namespace)
        if len(candidates) > 1 and role != "rollout":
            # The camera may stand outside the robot's namespace; everything else is the rollout's neighbour.
            home = _namespace(chosen["rollout"], names["rollout"])
            candidates = [c for c in candidates if _namespace(c, names[role]) == home] or candidates
        if not candidates and role in _NEEDED:
            raise _missing(found, wanted, role, bag)
        if len(candidates) > 1:
            raise _ambiguous(candidates, names[role], bag)
        chosen[role] = candidates[0] if candidates else ""
    return Topics(**chosen)


def _candidates(
    found: Mapping[str, str], name: str, types: tuple[str, ...], namespace: str | None
) -> list[str]:
    suffixes = [name] + ([f"{name}/compressed"] if COMPRESSED_IMAGE in types else [])
    for suffix in suffixes:
        matching = [
            topic
            for topic, msgtype in found.items()
            if msgtype in types
            and topic.endswith(f"/{suffix}")
            and (namespace is None or topic == f"/{namespace}/{suffix}".replace("//", "/"))
        ]
        if matching:
            return sorted(matching)
    return []


def _namespace(topic: str, name: str) -> str:
    return topic.removesuffix("/compressed").removesuffix(name.strip("/")).strip("/")


def _missing(found: Mapping[str, str], wanted: TopicMap, role: str, bag: Path) -> UnlearningError:
    names = wanted.names()
    prefix = f"/{wanted.namespace.strip('/')}/" if wanted.namespace else ".../"
    needed = ", ".join(f"{prefix}{names[r]} ({' or '.join(_TYPES[r])})" for r in _NEEDED)
    there = ", ".join(f"{topic} ({msgtype})" for topic, msgtype in sorted(found.items())) or "no topics"
    return UnlearningError(
        ErrorCode.UNLEARNING_BAG_UNREADABLE,
        f"bag has no {role} topic: {bag}",
        value=f"found {there}",
        limit=f"wanted {needed}",
        remedy="record these topics (`vlaforget record` does), or name them in a topic map",
    )


def _ambiguous(candidates: list[str], name: str, bag: Path) -> UnlearningError:
    namespaces = [_namespace(topic, name) or "/" for topic in candidates]
    return UnlearningError(
        ErrorCode.UNLEARNING_BAG_UNREADABLE,
        f"bag holds several robots: {bag}",
        value=", ".join(candidates),
        limit="one namespace",
        remedy=f"set the topic map's namespace to one of: {', '.join(namespaces)}",
    )
