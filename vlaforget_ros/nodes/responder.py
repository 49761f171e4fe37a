"""From one image to one action message: the gate, the inference, what may be published of it."""

from __future__ import annotations

import time
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
        self._hold_step, self._steps = policy.hold_step, policy.steps
        self._gripper = ["gripper" in name for name in policy.normalisation.names]
        self._frame = frame
        self._stale_after_s = stale_after_s
        self._now = now
        self._newest: PolicyAction | None = None
        self._asked: tuple[np.ndarray, np.ndarray | None] | None = None

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
        self._asked = None
        if not fault:
            try:
                image, state = self._views.complete(convert.image_array(message))
                done = self._engine.infer(image, rollout.instruction, rollout.steps, state)
                action, fault, inference_ms = done.prediction.action, done.prediction.fault, done.inference_ms
                digest, why = done.adapter_digest, done.message
                self._asked = (image, state) if done.decided else None
            except VlaForgetError as error:
                fault, why = int(error.code), str(error)
        action, fault = safe_action(action, fault, hold, safety.speed_scale, self._gripper)
        answer = self._message(rollout.rollout_id, rollout.steps, message.header.stamp, action, digest)
        answer.speed_scale = 1.0 if fault else float(safety.speed_scale)
        answer.inference_ms, answer.fault = float(inference_ms), int(fault)
        self._newest = answer
        return answer, why

    def shadow(self, answered: PolicyAction, instruction: str, digest: str) -> PolicyAction | None:
        """What another adapter would have done with the image that was just answered.

        None where the model was not asked (the arm was held, or a chunk goes on) or the adapter is not in memory.

        Args:
            answered: the newest action.
            instruction: of the running rollout.
            digest: of the other adapter.
        """
        if self._asked is None:
            return None
        image, state = self._asked
        began = time.perf_counter()
        prediction = self._engine.shadow(digest, image, instruction, state)
        if prediction is None:
            return None
        action = prediction.action if prediction.fault else self._steps(prediction.action)[0]
        shadow = self._message(answered.rollout_id, answered.step, answered.observation_stamp, action, digest)
        shadow.speed_scale, shadow.fault = 1.0, int(prediction.fault)
        shadow.inference_ms = (time.perf_counter() - began) * 1e3
        return shadow

    def _message(
        self, rollout_id: str, step: int, observed: Time, action: np.ndarray, digest: str
    ) -> PolicyAction:
        message = PolicyAction(rollout_id=rollout_id, step=step, adapter_digest=digest)
        message.header.stamp = self._now()
        message.header.frame_id = self._frame
        message.observation_stamp = observed
        message.action = np.asarray(action, dtype=np.float32).tolist()
        message.base_digest = self._base_digest
        return message

    def _age_s(self, message: Image | CompressedImage) -> float:
        age_ns = convert.nanoseconds(self._now()) - convert.nanoseconds(message.header.stamp)
        return age_ns / convert.NANOSECONDS
