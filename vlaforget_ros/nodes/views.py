"""What a policy is shown beside the main camera's image: further cameras, and the state of the robot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from rclpy.callback_groups import CallbackGroup
from sensor_msgs.msg import Image, JointState

from vlaforget_ros.errors import ErrorCode, PolicyError
from vlaforget_ros.nodes import convert, qos
from vlaforget_ros.policy.config import PolicyConfig


class Views:
    """Keeps the newest message of each topic.

    Args:
        config: of the policy: says how many cameras it looks through and whether it is told the robot's state.
        cameras: topics of the further cameras, in the order in which the policy was trained.
        state: topic of the robot's state: the positions of a JointState, in the order of training.
        stale_after_s: an older message is none [s].
        now: ROS time.

    Raises:
        PolicyError: 208 where topics and policy do not fit together.
    """

    def __init__(
        self,
        config: PolicyConfig,
        cameras: Sequence[str],
        state: str,
        stale_after_s: float,
        now: Callable[[], Time],
    ) -> None:
        wanted = config.cameras - 1
        if len(cameras) != wanted:
            raise PolicyError(
                ErrorCode.POLICY_BAD_PARAMETER,
                "parameter cameras does not fit the policy",
                value=", ".join(cameras) or "none",
                limit=f"{wanted} topic(s) beside `image`",
                remedy="name the further cameras in the order in which the policy was trained",
            )
        told = config.state is not None
        if told and not state:
            raise PolicyError(
                ErrorCode.POLICY_BAD_PARAMETER,
                "parameter state does not fit the policy",
                value="none",
                limit="a topic",
                remedy="name a topic of sensor_msgs/JointState whose positions are the state of training",
            )
        self._cameras, self._state = tuple(cameras), state if told else ""
        self._stale_after_s, self._now = stale_after_s, now
        self._newest: dict[str, Image | JointState] = {}

    def listen(self, node: Any, group: CallbackGroup) -> list[Any]:
        """Subscribe; returns the subscriptions."""
        found = [
            node.create_subscription(Image, topic, self._keeper(topic), qos.IMAGE, callback_group=group)
            for topic in self._cameras
        ]
        if self._state:
            found.append(
                node.create_subscription(
                    JointState, self._state, self._keeper(self._state), qos.STATE, callback_group=group
                )
            )
        return found

    def complete(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """The whole observation for an image of the main camera: (images, H, W, 3) or (H, W, 3), and the state.

        Raises:
            PolicyError: 200 where a camera or the state is missing or too old, 209 where images differ in size.
        """
        images = [image]
        for topic in self._cameras:
            images.append(convert.image_array(self._fresh(topic)))
        sizes = {one.shape for one in images}
        if len(sizes) > 1:
            raise PolicyError(
                ErrorCode.POLICY_BAD_IMAGE,
                "cameras differ in size",
                value=sorted(sizes),
                limit="one size",
                remedy="let the camera drivers give images of one size",
            )
        state = np.array(self._fresh(self._state).position) if self._state else None
        return (np.stack(images) if self._cameras else image), state

    @property
    def last_state(self) -> np.ndarray | None:
        """(P,) the newest state of the robot, however old; None before the first."""
        message = self._newest.get(self._state)
        return None if message is None else np.array(message.position)

    def _keeper(self, topic: str) -> Callable[[Any], None]:
        def keep(message: Any) -> None:
            self._newest[topic] = message

        return keep

    def _fresh(self, topic: str) -> Any:
        message = self._newest.get(topic)
        age_s = float("inf")
        if message is not None:
            age_ns = convert.nanoseconds(self._now()) - convert.nanoseconds(message.header.stamp)
            age_s = age_ns / convert.NANOSECONDS
        if age_s > self._stale_after_s:
            raise PolicyError(
                ErrorCode.POLICY_STALE_IMAGE,
                f"nothing recent on {topic}",
                value=f"{age_s:.2f} s old" if message is not None else "no message",
                limit=f"{self._stale_after_s:g} s",
                remedy=f"start what publishes {topic}",
            )
        return message
