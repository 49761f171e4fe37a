"""What a damaged bag lost, and when: enough to tell which rollouts are no longer whole."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from vlaforget_ros.episodes.types import Problem

NEVER_NS = 2**63 - 1
"""Behind every log time."""


@dataclass(frozen=True)
class Loss:
    """Messages that are not there any more.

    Attributes:
        start_ns: log time of the first that may be lost; the last good message before where nothing tells.
        end_ns: of the last that may be lost; :data:`NEVER_NS` where the recording just ends.
        counts: topic to messages lost; None where nobody knows.
        what: one line for a person.
    """

    start_ns: int
    end_ns: int
    counts: Mapping[str, int] | None
    what: str

    @property
    def is_cut(self) -> bool:
        """The recording ends here: what came before is whole, what came after was perhaps never written."""
        return self.end_ns == NEVER_NS

    def concerns(self, topics: Collection[str]) -> bool:
        """Whether messages of some topics may be among the lost."""
        return self.counts is None or any(self.counts.get(topic) for topic in topics)

    def messages(self, topics: Collection[str]) -> int | None:
        """How many messages of some topics; None where nobody knows."""
        return None if self.counts is None else sum(self.counts.get(topic, 0) for topic in topics)


@dataclass(frozen=True)
class Hole:
    """What one rollout lost.

    Attributes:
        messages: of the topics that were read, at most; None where nobody knows.
        what: one line for a person.
    """

    messages: int | None
    what: str


def hole_problem(rollout_id: str, hole: Hole) -> Problem:
    """What a report says of it."""
    return Problem("episode_damaged", rollout_id, hole.messages or 1, f"left out: {hole.what}")


def hole_in(losses: Iterable[Loss], topics: Collection[str], start_ns: int, end_ns: int) -> Hole | None:
    """What a rollout lost inside its span of log time, both ends included; None when it is whole.

    The time of a lost chunk is a range, so a neighbour that merely touches it counts as damaged as well: better one
    good rollout too few than one with a hole.
    """
    inside = [
        loss
        for loss in losses
        if not loss.is_cut and loss.start_ns <= end_ns and loss.end_ns >= start_ns and loss.concerns(topics)
    ]
    if not inside:
        return None
    counts = [loss.messages(topics) for loss in inside]
    known = None if None in counts else sum(count or 0 for count in counts)
    number = "an unknown number of" if known is None else f"up to {known}"
    return Hole(known, f"lost {number} messages in its time: {inside[0].what}")
