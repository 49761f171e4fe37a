"""Actions are told from their bytes as rosbags tells them, whatever came before."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from vlaforget_ros.episodes.messages import POLICY_ACTION, typestore
from vlaforget_ros.episodes.plain_action import PlainActions, plain_action

TEXTS = st.sampled_from(["", "a", "abcd", "rollout-1", "ü"])
MESSAGES = st.tuples(
    TEXTS,
    TEXTS,
    TEXTS,
    TEXTS,
    st.integers(0, 3),
    st.integers(0, 2**31 - 1),
    st.integers(0, 3),
    st.integers(0, 9),
)


def packed(
    frame: str, rollout: str, adapter: str, base: str, size: int, seconds: int, step: int, fault: int
) -> bytes:
    types = typestore().types
    time = types["builtin_interfaces/msg/Time"]
    message = types[POLICY_ACTION](
        header=types["std_msgs/msg/Header"](stamp=time(sec=1, nanosec=2), frame_id=frame),
        observation_stamp=time(sec=seconds, nanosec=5),
        rollout_id=rollout,
        step=step,
        action=np.arange(size, dtype=np.float32) + step,
        adapter_digest=adapter,
        base_digest=base,
        speed_scale=1.0,
        inference_ms=2.0,
        fault=fault,
    )
    return bytes(typestore().serialize_cdr(message, POLICY_ACTION))


@settings(max_examples=80, deadline=None)
@given(st.lists(MESSAGES, min_size=1, max_size=8), st.booleans(), st.integers(0, 200))
def test_each_is_told_as_if_it_were_alone(messages: Sequence[tuple], views: bool, cut: int) -> None:
    actions = PlainActions()
    for values in messages:
        data = packed(*values)
        told = actions.read(memoryview(data) if views else data)
        assert told is not None
        _, rollout, adapter, _, size, seconds, step, fault = values
        assert (told.rollout_id, told.adapter_digest, told.fault) == (rollout, adapter, fault)
        assert told.observation_ns == seconds * 1_000_000_000 + 5
        assert told.action.dtype == np.float32
        assert np.array_equal(told.action, np.arange(size) + step)
        told.action[:] = 0
        # What does not fit changes nothing for the next one.
        short = data[: max(0, len(data) - 4 - cut)]
        assert actions.read(short) is None
        assert plain_action(short) is None
