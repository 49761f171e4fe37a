"""Values that the rest of the package knows an episode by; nothing here knows what a bag is."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

NANOSECONDS = 1_000_000_000


class Phase(StrEnum):
    """How a rollout ended, in the words of Rollout.msg."""

    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    ABORTED = "ABORTED"
    """Cancelled, stopped, faulted, or the recording ended first: counts for no rate."""


SEVERITIES = ("WARN", "SLOW", "STOP")


@dataclass(frozen=True)
class Violation:
    """A rule that was broken during a rollout.

    Attributes:
        rule: rule id, for example ``keep_out/hand_zone``.
        severity: WARN, SLOW or STOP.
        stamp_ns: when it happened, ROS time.
        value: measured value in ``unit``.
        limit: limit it broke in ``unit``.
        unit: unit of both, "" for none.
        message: one line for a person.
    """

    rule: str
    severity: str
    stamp_ns: int
    value: float
    limit: float
    unit: str
    message: str


@dataclass(frozen=True, eq=False)
class EpisodeInfo:
    """What is known of a recorded rollout without its images: enough to list it and to choose it.

    Attributes:
        rollout_id: id the policy node gave it.
        instruction: what the policy was told.
        adapter_digest: adapter that drove it, "" for the base model.
        stamps_ns: (T,) int64, stamps of the images, strictly increasing.
        success: what the outcome said, else what the end of the rollout said; None when nobody said.
        phase: a :class:`Phase`.
        violations: in order of time.
        source: path of the bag.
        dropped_frames: images and actions of this rollout without a partner, or with a fault.
        damage: what a damaged bag lost in its time, one line; "" when it is whole (the others are read on demand only).
    """

    rollout_id: str
    instruction: str
    adapter_digest: str
    stamps_ns: np.ndarray
    success: bool | None
    phase: str
    violations: tuple[Violation, ...]
    source: str
    dropped_frames: int
    damage: str = ""

    def __len__(self) -> int:
        return len(self.stamps_ns)

    @property
    def violated(self) -> bool:
        """Whether any rule was broken."""
        return bool(self.violations)

    @property
    def seconds(self) -> float:
        """From the first frame to the last [s]."""
        return float(self.stamps_ns[-1] - self.stamps_ns[0]) / NANOSECONDS if len(self) else 0.0


@dataclass(frozen=True, eq=False, kw_only=True)
class Episode(EpisodeInfo):
    """One recorded rollout: action ``t`` was computed from image ``t``, and from state ``t`` where there are states.

    Attributes:
        images: (T, H, W, 3) uint8 RGB, or (T, cameras, H, W, 3), the main camera first, where further ones were read.
        actions: (T, A) float32, robot units.
        states: (T, P) float64 state of the robot, None where none was read.
    """

    images: np.ndarray
    actions: np.ndarray
    states: np.ndarray | None = None

    @property
    def cameras(self) -> int:
        """How many cameras were read."""
        return 1 if self.images.ndim == 4 else self.images.shape[1]

    def view(self, camera: int) -> np.ndarray:
        """(T, H, W, 3) images of one camera; 0 is the main one."""
        return self.images if self.images.ndim == 4 else self.images[:, camera]


_NO_ROLES = ("namespace", "cameras", "state", "stale_after_s")


@dataclass(frozen=True)
class TopicMap:
    """Names of the topics in the bag, relative to the robot's namespace.

    A topic matches when its name is ``/<name>`` or ends in ``/<name>``. With several robots in one bag,
    ``namespace`` says whose topics are meant. A further camera or a state whose name begins with a slash is that
    very topic.

    Attributes:
        cameras: further cameras, in the order in which the policy was trained.
        state: sensor_msgs/JointState whose positions are the robot's state, "" for none.
        stale_after_s: oldest image of a further camera, and oldest state, beside a main image [s]; as the
            parameter of the policy node.
    """

    image: str = "image"
    ee_pose: str = "ee_pose"
    instruction: str = "instruction"
    action: str = "action"
    rollout: str = "rollout"
    outcome: str = "outcome"
    violation: str = "safety/violation"
    namespace: str | None = None
    cameras: tuple[str, ...] = ()
    state: str = ""
    stale_after_s: float = 0.5

    def names(self) -> dict[str, str]:
        """Role to relative name, without the namespace and without what is shown beside the main image."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in _NO_ROLES}


@dataclass(frozen=True)
class Problem:
    """Something in the recording that was left out, and why; the rest was still read.

    Attributes:
        kind: for example ``frames_without_action``; stable, for counting.
        rollout_id: where it happened, "" if in no rollout.
        count: how many messages, frames or episodes.
        message: one line for a person.
        source: path of the bag, "" when it does not matter.
    """

    kind: str
    rollout_id: str
    count: int
    message: str
    source: str = ""


@dataclass(frozen=True)
class _Report:
    """What was left out."""

    problems: tuple[Problem, ...] = ()

    def count(self, kind: str) -> int:
        """Sum of the counts of all problems of one kind."""
        return sum(problem.count for problem in self.problems if problem.kind == kind)


@dataclass(frozen=True)
class EpisodeReport(_Report):
    """What was read from one or more bags."""

    episodes: tuple[Episode, ...] = ()


@dataclass(frozen=True)
class ScanReport(_Report):
    """What one or more bags hold, without their images."""

    episodes: tuple[EpisodeInfo, ...] = ()


@dataclass(frozen=True, eq=False)
class EpisodeSlice:
    """Some frames of an episode.

    Attributes:
        episode: where they are from.
        indices: (K,) int64, strictly increasing frame indices into the episode.
    """

    episode: Episode
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)
