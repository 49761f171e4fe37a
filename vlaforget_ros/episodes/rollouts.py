"""First pass over a bag: which rollouts there were, what they were told, what they did, how they ended."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from rosbags.serde import SerdeError

from vlaforget_ros.episodes.matching import StampedAction
from vlaforget_ros.episodes.messages import POLICY_ACTION, stamp_to_ns
from vlaforget_ros.episodes.plain_action import FIELDS, PlainAction, PlainActions
from vlaforget_ros.episodes.storage.bags import Bag
from vlaforget_ros.episodes.storage.losses import NEVER_NS
from vlaforget_ros.episodes.storage.message import Message
from vlaforget_ros.episodes.topics import Topics
from vlaforget_ros.episodes.types import SEVERITIES, Phase, Problem, Violation

STARTED = 0
ENDED = {1: Phase.SUCCEEDED, 2: Phase.FAILED, 3: Phase.ABORTED}
"""Values of Rollout.phase."""


@dataclass
class RecordedRollout:
    """What the topics said about one rollout."""

    rollout_id: str
    instruction: str = ""
    adapter_digest: str = ""
    announced: bool = False
    started: bool = False
    end: Phase | None = None
    outcomes: list[bool] = field(default_factory=list)
    actions: list[StampedAction] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    first_ns: int = NEVER_NS
    last_ns: int = 0

    def saw(self, time_ns: int) -> None:
        """A message of it was logged then [ns]."""
        self.first_ns, self.last_ns = min(self.first_ns, time_ns), max(self.last_ns, time_ns)

    @property
    def success(self) -> bool | None:
        """The last outcome; without one what the end implies; None when nobody said."""
        if self.outcomes:
            return self.outcomes[-1]
        return {Phase.SUCCEEDED: True, Phase.FAILED: False}.get(self.end) if self.end else None

    @property
    def phase(self) -> Phase:
        """How it ended; ABORTED when the recording shows no end and no outcome."""
        if self.end is not None:
            return self.end
        if self.outcomes:
            return Phase.SUCCEEDED if self.outcomes[-1] else Phase.FAILED
        return Phase.ABORTED

    def problems(self) -> list[Problem]:
        """What is odd about it."""
        found: list[tuple[str, int, str]] = []
        if not self.started:
            found.append(("start_missing", 1, "the recording began after the rollout"))
        if self.end is None:
            found.append(("end_missing", 1, f"no end recorded: counted as {self.phase}"))
        if not self.outcomes and self.end in (Phase.SUCCEEDED, Phase.FAILED):
            found.append(("outcome_missing", 1, f"no outcome recorded: success taken from {self.end}"))
        if len(set(self.outcomes)) > 1:
            found.append(("outcome_contradicts", len(self.outcomes), "outcomes differ: the last one counts"))
        if self.outcomes and self.end in (Phase.SUCCEEDED, Phase.FAILED):
            said = self.end is Phase.SUCCEEDED
            if said != self.outcomes[-1]:
                text = f"the rollout ended as {self.end}, the outcome says otherwise and counts"
                found.append(("phase_contradicts", 1, text))
        others = sum(action.adapter_digest != self.adapter_digest for action in self.actions)
        if others:
            found.append(
                ("actions_of_other_adapter", others, f"{others} actions were made by another adapter")
            )
        return [Problem(kind, self.rollout_id, count, text) for kind, count, text in found]


def collect_rollouts(
    bag: Bag, topics: Topics, beside: Mapping[str, Callable[[Message], None]] = MappingProxyType({})
) -> tuple[list[RecordedRollout], list[Problem]]:
    """All rollouts that were announced, in order of their first message, and what belongs to none.

    Args:
        bag: open.
        topics: of the bag.
        beside: further topics, and who takes the first bytes of their messages: it saves another walk.
    """
    rollouts: dict[str, RecordedRollout] = {}
    lost: Counter[str] = Counter()
    handlers: dict[str, Callable[[RecordedRollout, Any, int], None]] = {
        topics.rollout: _on_rollout,
        topics.action: _on_action,
        topics.outcome: _on_outcome,
        topics.violation: _on_violation,
    }
    handlers.pop("", None)
    actions = PlainActions() if _is_plain(bag, topics.action) else None
    for message in bag.messages((*handlers, *beside), tuple(beside)):
        if message.topic in beside:
            beside[message.topic](message)
            continue
        try:
            plain = actions.read(message.data) if actions and message.topic == topics.action else None
            content = plain or bag.deserialize(message)
        except SerdeError:
            lost["messages_broken"] += 1
            continue
        if not content.rollout_id:
            lost["outside_rollouts"] += 1
            continue
        rollout = rollouts.setdefault(content.rollout_id, RecordedRollout(content.rollout_id))
        rollout.saw(message.time_ns)
        handlers[message.topic](rollout, content, message.time_ns)
    for rollout in rollouts.values():
        if not rollout.announced:
            lost["rollout_unknown"] += 1
    return [rollout for rollout in rollouts.values() if rollout.announced], _lost(lost)


def spans(rollouts: Sequence[RecordedRollout]) -> list[tuple[int, int]]:
    """First and last log time that each rollout may have had [ns], both ends included.

    Where no start was recorded, it may have begun as soon as the one before had ended; where no end, it may have gone
    on until the next one began.
    """
    found = []
    for rollout in rollouts:
        before = [r.last_ns for r in rollouts if r.last_ns < rollout.first_ns]
        after = [r.first_ns for r in rollouts if r.first_ns > rollout.last_ns]
        start = rollout.first_ns if rollout.started else max(before, default=0)
        end = rollout.last_ns if rollout.end is not None else min(after, default=NEVER_NS)
        found.append((start, end))
    return found


def _lost(lost: Counter[str]) -> list[Problem]:
    texts = {
        "messages_broken": "messages cannot be deserialized",
        "outside_rollouts": "messages belong to no rollout",
        "rollout_unknown": "rollouts have actions, outcomes or violations but neither start nor end",
    }
    return [Problem(kind, "", count, f"{count} {texts[kind]}") for kind, count in lost.items()]


def _on_rollout(rollout: RecordedRollout, message: Any, _: int) -> None:
    rollout.announced = True
    rollout.instruction = message.instruction or rollout.instruction
    if message.phase == STARTED or not rollout.started:
        rollout.adapter_digest = message.adapter_digest
    rollout.started = rollout.started or message.phase == STARTED
    rollout.end = ENDED.get(message.phase, rollout.end)


def _is_plain(bag: Bag, topic: str) -> bool:
    """Whether actions were recorded with today's definition."""
    return bag.topics.get(topic) == POLICY_ACTION and tuple(n for n, _ in bag.fields(POLICY_ACTION)) == FIELDS


def _on_action(rollout: RecordedRollout, message: Any, time_ns: int) -> None:
    if isinstance(message, PlainAction):
        stamp, action = message.observation_ns, message.action
        rollout.actions.append(StampedAction(stamp, time_ns, action, message.fault, message.adapter_digest))
        return
    rollout.actions.append(
        StampedAction(
            stamp_to_ns(message.observation_stamp),
            time_ns,
            # A copy: the message's own is a view of the bag's bytes.
            np.array(message.action, dtype=np.float32),
            int(message.fault),
            # One text for all actions of a long bag.
            sys.intern(message.adapter_digest),
        )
    )


def _on_outcome(rollout: RecordedRollout, message: Any, _: int) -> None:
    rollout.outcomes.append(bool(message.success))


def _on_violation(rollout: RecordedRollout, message: Any, _: int) -> None:
    severity = SEVERITIES[message.severity] if message.severity < len(SEVERITIES) else SEVERITIES[-1]
    rollout.violations.append(
        Violation(
            message.rule,
            severity,
            stamp_to_ns(message.header.stamp),
            float(message.value),
            float(message.limit),
            message.unit,
            message.message,
        )
    )
