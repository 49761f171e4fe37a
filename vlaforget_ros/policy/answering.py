"""One question to a policy, and an answer that the arm can follow whatever went wrong inside."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from vlaforget_ros.errors import ErrorCode, VlaForgetError
from vlaforget_ros.policy.memory import free_cached_memory, is_out_of_memory, out_of_memory
from vlaforget_ros.policy.policy import Observation, Prediction
from vlaforget_ros.policy.serving import ServedPolicy

_log = logging.getLogger(__name__)


Answer = tuple[Prediction, str]


def answer(policy: ServedPolicy, asked: Observation) -> Answer:
    """The prediction and, where it is a hold action with a fault, one line that says why.

    Args:
        policy: asked in the thread that owns its model.
        asked: about.
    """
    state = asked.state
    try:
        prediction = policy.act(asked.image, asked.instruction, state)
    except VlaForgetError as error:
        return _held(policy, error.code, state), str(error)
    except Exception as error:
        if is_out_of_memory(error):
            free_cached_memory()
            return _held(policy, ErrorCode.POLICY_OUT_OF_MEMORY, state), str(out_of_memory("an inference"))
        _log.exception("the model failed; the arm holds")
        return _held(policy, ErrorCode.POLICY_MODEL_FAILED, state), f"the model failed: {error!r}"
    return _checked(policy, prediction, state)


def answer_together(
    policy: ServedPolicy, asked: Sequence[Observation], entering: Callable[[Sequence[int]], None]
) -> list[Answer]:
    """As :func:`answer` for several observations, in as few forward passes as their prompts allow.

    Where that fails, for one bad image or for want of memory, each is answered by itself: one arm's fault is no fault
    of the others.

    Args:
        policy: asked in the thread that owns its model.
        asked: about, one for each arm.
        entering: called before each forward pass with the observations that it answers.
    """
    try:
        found = policy.act_together(asked, entering)
    except Exception as error:
        if is_out_of_memory(error):
            free_cached_memory()
        _log.warning("%d observations are answered one by one, since together: %r", len(asked), error)
    else:
        return [_checked(policy, one, about.state) for one, about in zip(found, asked, strict=True)]
    answers = []
    for index, about in enumerate(asked):
        entering([index])
        answers.append(answer(policy, about))
    return answers


def _checked(policy: ServedPolicy, prediction: Prediction, state: np.ndarray | None) -> Answer:
    if prediction.fault:
        held = replace(prediction, action=policy.hold_step(state))
        return held, ErrorCode(prediction.fault).name
    if not np.all(np.isfinite(prediction.action)):
        held = _held(policy, ErrorCode.POLICY_NON_FINITE_ACTION, state)
        return held, f"non-finite action {prediction.action}"
    return prediction, ""


def _held(policy: ServedPolicy, code: ErrorCode, state: np.ndarray | None) -> Prediction:
    return Prediction(policy.hold_step(state), (), int(code))
