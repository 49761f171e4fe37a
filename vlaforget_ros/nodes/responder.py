"""From one image to one action message: the gate, the inference, what may be published of it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from builtin_interfaces.msg import Time
from sensor_msgs.msg import CompressedImage, Image

from vlaforget_ros.errors import VlaForgetError
from vlaforget_ros.msg import PolicyAction
from vlaforget_ros.nodes import convert
from vlaforget_ros.nodes.control import RolloutControl, SafetyView, gate, safe_action
from vlaforget_ros.nodes.views import Views
from vlaforget_ros.policy.engine import InferenceEngine
from vlaforget_ros.policy.policy import VlaPolicy


class Responder:
    """Answers images. One thread at a time calls it.

    Args:
        engine: serves the policy; the responder only infers.
        policy: for its hold action, its action names and its digest.
        views: what the policy is shown beside the image.
        frame: frame of the actions.
        stale_after_s: older images get the hold action [s].
        now: ROS time.
    """

    def __init__(
        self,
        engine: InferenceEngine,
        policy: VlaPolicy,
        views: Views,
        frame: str,
        stale_after_s: float,
        now: Callable[[], Time],
    ) -> None:
        self._engine = engine
        self._views = views
        self._base_digest = policy.base_digest
        self._hold_step = policy.hold_step
        self._gripper = ["gripper" in name for name in policy.normalisation.names]
        self._frame = frame
        self._stale_after_s = stale_after_s
        self._now = now
        self._newest: PolicyAction | None = None

    def fresh(self, message: Image | CompressedImage) -> bool:
        """Whether an image is young enough to act upon."""
        return self._age_s(message) <= self._stale_after_s

    def given(self, rollout: RolloutControl, message: Image | CompressedImage) -> PolicyAction | None:
        """The answer that this image got already: cameras and lockstep cells may send one twice."""
        newest = self._newest
        if newest is None or newest.rollout_id != rollout.rollout_id:
            return None
        return newest if newest.observation_stamp == message.header.stamp else None

    def answer(
        self, rollout: RolloutControl, message: Image | CompressedImage, safety: SafetyView
    ) -> tuple[PolicyAction, str]:
        """The action for an image, and why it is the hold action if it is.

        Args:
            rollout: the running one; its step numbers the action.
            message: the image.
            safety: what the monitor says now.
        """
        fault = gate(self._age_s(message), self._stale_after_s, safety)
        # An old state is still the best guess of where the arm stands.
        hold = self._hold_step(self._views.last_state)
        action, digest, inference_ms, why = hold, self._engine.active_digest, 0.0, safety.reason
        if not fault:
            try:
                image, state = self._views.complete(convert.image_array(message))
                done = self._engine.infer(image, rollout.instruction, rollout.steps, state)
                action, fault, inference_ms = done.prediction.action, done.prediction.fault, done.inference_ms
                digest, why = done.adapter_digest, done.message
            except VlaForgetError as error:
                fault, why = int(error.code), str(error)
        action, fault = safe_action(action, fault, hold, safety.speed_scale, self._gripper)
        answer = PolicyAction(rollout_id=rollout.rollout_id, step=rollout.steps, adapter_digest=digest)
        answer.header.stamp = self._now()
        answer.header.frame_id = self._frame
        answer.observation_stamp = message.header.stamp
        answer.action = np.asarray(action, dtype=np.float32).tolist()
        answer.base_digest = self._base_digest
        answer.speed_scale = 1.0 if fault else float(safety.speed_scale)
        answer.inference_ms, answer.fault = float(inference_ms), int(fault)
        self._newest = answer
        return answer, why

    def _age_s(self, message: Image | CompressedImage) -> float:
        age_ns = convert.nanoseconds(self._now()) - convert.nanoseconds(message.header.stamp)
        return age_ns / convert.NANOSECONDS
