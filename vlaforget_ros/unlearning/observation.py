"""What a policy is shown, and what of it was recorded: as many cameras, and a state where it is told one."""

from __future__ import annotations

from collections.abc import Iterable

from vlaforget_ros.episodes.types import Episode
from vlaforget_ros.errors import ErrorCode, UnlearningError
from vlaforget_ros.policy.config import PolicyConfig
from vlaforget_ros.unlearning.request import Request


def state_size_of(config: PolicyConfig) -> int:
    """How many numbers of the robot's state a policy is told; 0: none."""
    return len(config.state.low) if config.state else 0


def require_topics(request: Request, config: PolicyConfig) -> None:
    """Whether a request names what the policy is shown, before any bag is read.

    Raises:
        UnlearningError: 300 for too few or too many ``cameras``, for a ``state`` that is missing or not wanted, and for
            a ``mapping`` that cannot be used.
    """
    further, told = config.cameras - 1, state_size_of(config)
    cameras, state = request.shown
    if len(cameras) != further:
        raise _unfit(
            "cameras",
            ", ".join(cameras) or "none",
            f"{further} topic(s) beside the main camera",
            "name the further cameras in the order in which the policy was trained"
            if further
            else "leave `cameras` out: this policy looks through one",
        )
    if bool(state) != bool(told):
        raise _unfit(
            "state",
            state or "none",
            f"a topic with {told} positions" if told else "none: this policy is not told it",
            "name the topic of sensor_msgs/JointState whose positions are the state of training"
            if told
            else "leave `state` out",
        )


def require_views(episodes: Iterable[Episode], config: PolicyConfig) -> None:
    """Whether every episode shows what the policy is shown.

    Raises:
        UnlearningError: 300 naming the first that shows another number of cameras, or a state of another size.
    """
    wanted = (config.cameras, state_size_of(config))
    for episode in episodes:
        shown = (episode.cameras, 0 if episode.states is None else episode.states.shape[1])
        if shown != wanted:
            raise UnlearningError(
                ErrorCode.UNLEARNING_BAD_REQUEST,
                f"episode {episode.rollout_id} of {episode.source} does not show what the policy is shown",
                value=f"{shown[0]} camera(s), state of {shown[1]}",
                limit=f"{wanted[0]} camera(s), state of {wanted[1]}",
                remedy="name the topics with which the policy was trained in `cameras` and `state`",
            )


def _unfit(field: str, value: str, limit: str, remedy: str) -> UnlearningError:
    return UnlearningError(
        ErrorCode.UNLEARNING_BAD_REQUEST,
        f"bad request: {field} does not fit the policy",
        value=value,
        limit=limit,
        remedy=remedy,
    )
