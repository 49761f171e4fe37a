"""One question to a policy, and an answer that the arm can follow whatever went wrong inside."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np

from vlaforget_ros.errors import ErrorCode, VlaForgetError
from vlaforget_ros.policy.memory import free_cached_memory, is_out_of_memory, out_of_memory
from vlaforget_ros.policy.policy import Prediction
from vlaforget_ros.policy.serving import ServedPolicy

_log = logging.getLogger(__name__)


def answer(
    policy: ServedPolicy, image: np.ndarray, instruction: str, state: np.ndarray | None
) -> tuple[Prediction, str]:
    """The prediction and, where it is a hold action with a fault, one line that says why.

    Args:
        policy: asked in the thread that owns its model.
        image: (H, W, 3) uint8 RGB, or (images, H, W, 3).
        instruction: what to do.
        state: (P,) of the robot, where the policy is told it.
    """
    try:
        prediction = policy.act(image, instruction, state)
    except VlaForgetError as error:
        return _held(policy, error.code, state), str(error)
    except Exception as error:
        if is_out_of_memory(error):
            free_cached_memory()
            return _held(policy, ErrorCode.POLICY_OUT_OF_MEMORY, state), str(out_of_memory("an inference"))
        _log.exception("the model failed; the arm holds")
        return _held(policy, ErrorCode.POLICY_MODEL_FAILED, state), f"the model failed: {error!r}"
    if prediction.fault:
        held = replace(prediction, action=policy.hold_step(state))
        return held, ErrorCode(prediction.fault).name
    if not np.all(np.isfinite(prediction.action)):
        held = _held(policy, ErrorCode.POLICY_NON_FINITE_ACTION, state)
        return held, f"non-finite action {prediction.action}"
    return prediction, ""


def _held(policy: ServedPolicy, code: ErrorCode, state: np.ndarray | None) -> Prediction:
    return Prediction(policy.hold_step(state), (), int(code))
