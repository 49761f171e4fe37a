"""What each kind of problem in a recording means for an edit, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from vlaforget_ros.episodes.types import Problem


@dataclass(frozen=True)
class Finding:
    """Something a person should know before the bag becomes part of a request.

    Attributes:
        kind: stable name, for counting.
        bag: path of the bag.
        place: rollout id or topic, "" for the bag as a whole.
        count: how many messages, frames or episodes.
        message: what was found.
        consequence: what it does to the episodes.
        remedy: what to do about it.
        frames_lost: frames that cannot be used because of it.
        episodes_lost: episodes that cannot be used because of it.
    """

    kind: str
    bag: str
    place: str
    count: int
    message: str
    consequence: str
    remedy: str
    frames_lost: int = 0
    episodes_lost: int = 0


_RECORD = "record with `vlaforget record`, which takes every topic an edit needs"
_NETWORK = "look at the load of the recording machine and at the camera's connection"
# kind: consequence, remedy. Kinds are those of episodes/reader.py, rollouts.py, views.py and bags.py.
MEANING: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "bag_unreadable": (
            "none of its episodes can be used",
            "see the message; record again if nothing helps",
        ),
        "bag_damaged": (
            "what lies behind the damage is lost, what was read is exact",
            "keep the bag as it is; `ros2 bag reindex` on a copy makes it whole for other tools",
        ),
        "messages_lost": (
            "episodes in its time are left out; nothing is invented in their place",
            "copy the bag again if there is another copy; look at the disk",
        ),
        "episode_damaged": ("no set takes the episode", "use other episodes of the same behaviour"),
        "start_missing": ("the episode begins late", "start the recorder before the policy"),
        "end_missing": (
            "the episode counts as aborted: it is in no success rate and no retain set of successes",
            "close the recorder after the rollout; say the outcome on the topic `outcome`",
        ),
        "outcome_missing": ("success is taken from how the rollout ended", "publish `outcome`"),
        "outcome_contradicts": ("the last outcome counts", "let only one node publish `outcome`"),
        "phase_contradicts": ("the outcome counts", "let the cell and the policy agree on the outcome"),
        "actions_of_other_adapter": (
            "the episode counts for the adapter that started it",
            "swap between rollouts, or leave the episode out of the request",
        ),
        "episode_empty": ("the episode is not there", _RECORD),
        "rollout_repeated": ("the longer recording counts", "leave one of the bags out"),
        "messages_broken": ("these messages are left out", "record again; check the disk"),
        "outside_rollouts": ("these messages are left out", "start rollouts by `vlaforget execute`"),
        "rollout_unknown": ("these rollouts are left out", "record the topic `rollout`"),
        "actions_without_image": ("these frames are left out", _NETWORK),
        "images_without_action": (
            "these images are left out",
            "the policy missed ticks: see `vlaforget status`",
        ),
        "actions_faulted": ("these frames are left out: the arm held", "see the policy's faults"),
        "actions_non_finite": ("these frames are left out", "see the policy's faults"),
        "actions_repeated": ("the first answer counts: it is what the arm got", "run one policy only"),
        "actions_other_size": ("these frames are left out", "record one policy in one bag"),
        "images_repeated": ("the last image before the action counts", "run one camera driver only"),
        "images_broken": ("these frames are left out", "record again; check the camera and the disk"),
        "images_other_size": ("these frames are left out", "do not change the camera's resolution meanwhile"),
        "images_missing": ("there is no episode", "look at the image topic of the mapping file"),
        "episode_short": ("the rollout is left out", "see `cut` of the mapping file (min_frames, gap_s)"),
        "frames_without_instruction": ("these frames are left out", "see `instruction` of the mapping file"),
        "frames_without_action": ("these frames are left out", "see `tolerance_s` of the mapping file"),
        "frames_without_next": (
            "these frames are left out",
            "one of each rollout is as it must be with `delta`",
        ),
        "frames_without_camera": ("these frames are left out", _NETWORK),
        "frames_without_state": ("these frames are left out", "look at the rate of the joint states"),
        **dict.fromkeys(
            ("camera_broken", "camera_other_size", "state_broken", "state_other_size"),
            ("these frames are left out", "record again; check the camera, the driver and the disk"),
        ),
    }
)
_FRAMES = (
    "actions_without_image",
    "images_without_action",
    "actions_faulted",
    "actions_non_finite",
    "actions_other_size",
    "images_broken",
    "images_other_size",
    "frames_without_instruction",
    "frames_without_action",
    "frames_without_next",
    "frames_without_camera",
    "frames_without_state",
    "camera_broken",
    "camera_other_size",
    "state_broken",
    "state_other_size",
)


def finding_of(problem: Problem) -> Finding:
    """A problem of reading with its consequence and remedy."""
    consequence, remedy = MEANING.get(
        problem.kind, ("what is named is left out", "see docs/episodes.md, or record again")
    )
    frames = problem.count if problem.kind in _FRAMES else 0
    return Finding(
        problem.kind,
        problem.source,
        problem.rollout_id,
        problem.count,
        problem.message,
        consequence,
        remedy,
        frames,
        1 if problem.kind in ("episode_empty", "episode_damaged", "episode_short") else 0,
    )
