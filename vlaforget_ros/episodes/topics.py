"""Which topics of a bag are meant: by name, by type, and with several robots by namespace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vlaforget_ros.episodes.messages import (
    COMPRESSED_IMAGE,
    IMAGE,
    JOINT_STATE,
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
_CAMERA, _STATE = (IMAGE, COMPRESSED_IMAGE), (JOINT_STATE,)


@dataclass(frozen=True)
class Topics:
    """Full names of an episode's topics in one bag; "" for an optional one that was not recorded.

    ``cameras`` (the further ones) and ``state`` are there where they were asked for.
    """

    rollout: str
    action: str
    image: str
    outcome: str
    violation: str
    cameras: tuple[str, ...] = ()
    state: str = ""

    @property
    def beside(self) -> tuple[str, ...]:
        """What is shown beside the main image: the further cameras, then the state."""
        return (*self.cameras, *((self.state,) if self.state else ()))


def resolve(found: Mapping[str, str], wanted: TopicMap, bag: Path) -> Topics:
    """Find the topics of ``wanted`` among those of a bag.

    Args:
        found: topic to message type, as recorded.
        wanted: relative names, and perhaps a namespace.
        bag: for error texts.

    Raises:
        UnlearningError: 301 when a needed topic is missing or has another type, or there are several robots; 300 when
            one topic is named for two cameras.
    """
    names = wanted.names()
    namespace = wanted.namespace.strip("/") if wanted.namespace is not None else None
    chosen: dict[str, str] = {}
    beside: list[str] = []
    for role, types in _TYPES.items():
        candidates = _candidates(found, names[role].strip("/"), types, namespace)
        if role == "image":
            home = _namespace(chosen["rollout"], names["rollout"])
            beside = [_beside(found, name, _CAMERA, home, bag) for name in wanted.cameras]
            beside += [_beside(found, wanted.state, _STATE, home, bag)] if wanted.state else []
            # `wrist/image` ends in `image`, too.
            candidates = [c for c in candidates if c not in beside] or candidates
        if len(candidates) > 1 and role != "rollout":
            # The camera may stand outside the robot's namespace; everything else is the rollout's neighbour.
            home = _namespace(chosen["rollout"], names["rollout"])
            candidates = [c for c in candidates if _namespace(c, names[role]) == home] or candidates
        if not candidates and role in _NEEDED:
            raise _missing(found, wanted, role, bag)
        if len(candidates) > 1:
            raise _ambiguous(candidates, names[role], bag)
        chosen[role] = candidates[0] if candidates else ""
    if len({chosen["image"], *beside}) <= len(beside):
        raise _twice(chosen["image"], beside, bag)
    cameras = tuple(beside[: len(wanted.cameras)])
    return Topics(**chosen, cameras=cameras, state=beside[-1] if wanted.state else "")


def _beside(found: Mapping[str, str], name: str, types: tuple[str, ...], home: str, bag: Path) -> str:
    """The topic of a further camera or of the state. Raises UnlearningError 301 where there is none, or several."""
    candidates = _candidates(found, name.strip("/"), types, None)
    very = [c for c in candidates if c.removesuffix("/compressed") == f"/{name.strip('/')}"]
    if name.startswith("/"):
        candidates = very
    elif len(candidates) > 1:
        # The robot's own; else the one without a namespace.
        candidates = [c for c in candidates if _namespace(c, name) == home] or very or candidates
    if not candidates:
        there = ", ".join(f"{topic} ({msgtype})" for topic, msgtype in sorted(found.items()))
        raise UnlearningError(
            ErrorCode.UNLEARNING_BAG_UNREADABLE,
            f"bag has no topic {name}: {bag}",
            value=f"found {there or 'no topics'}",
            limit=f"{name} ({' or '.join(types)})",
            remedy="record it (parameters `cameras` and `state` of the recorder), or name the topic that was recorded",
        )
    if len(candidates) > 1:
        raise _ambiguous(candidates, name, bag)
    return candidates[0]


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


def _twice(image: str, beside: list[str], bag: Path) -> UnlearningError:
    return UnlearningError(
        ErrorCode.UNLEARNING_BAD_REQUEST,
        f"one topic is named for two cameras: {bag}",
        value=", ".join([image, *beside]),
        limit="another topic for each camera",
        remedy="name the further cameras only: the main one is there anyway",
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
