"""Messages to values and back: encodings, padding, broken images, stamps; and parameters."""

from __future__ import annotations

import io
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PilImage

from vlaforget_ros.errors import PolicyError
from vlaforget_ros.safety.messages import event_of
from vlaforget_ros.safety.monitor import Event
from vlaforget_ros.safety.rules.base import Severity

pytestmark = pytest.mark.ros

PICTURE = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def test_an_image_survives_the_round_trip() -> None:
    from builtin_interfaces.msg import Time

    from vlaforget_ros.nodes import convert

    message = convert.image_message(PICTURE, Time(sec=3, nanosec=4), "cell")
    np.testing.assert_array_equal(convert.image_array(message), PICTURE)
    assert (message.header.stamp.sec, message.header.frame_id, message.step) == (3, "cell", 21)


@pytest.mark.parametrize(
    ("encoding", "channels", "expected"),
    [
        ("bgr8", PICTURE[:, :, ::-1], PICTURE),
        ("rgba8", np.dstack([PICTURE, PICTURE[:, :, :1]]), PICTURE),
        ("bgra8", np.dstack([PICTURE[:, :, ::-1], PICTURE[:, :, :1]]), PICTURE),
        ("mono8", PICTURE[:, :, :1], np.repeat(PICTURE[:, :, :1], 3, axis=2)),
    ],
)
def test_encodings_and_padded_rows(encoding: str, channels: np.ndarray, expected: np.ndarray) -> None:
    from sensor_msgs.msg import Image

    from vlaforget_ros.nodes import convert

    rows = channels.reshape(5, -1)
    padded = np.pad(rows, ((0, 0), (0, 3)))
    message = Image(height=5, width=7, encoding=encoding, step=padded.shape[1], data=padded.tobytes())
    np.testing.assert_array_equal(convert.image_array(message), expected)


def test_a_png_survives() -> None:
    from sensor_msgs.msg import CompressedImage

    from vlaforget_ros.nodes import convert

    data = io.BytesIO()
    PilImage.fromarray(PICTURE).save(data, "png")
    np.testing.assert_array_equal(
        convert.image_array(CompressedImage(format="png", data=data.getvalue())), PICTURE
    )


def test_broken_images_are_coded_errors() -> None:
    from sensor_msgs.msg import CompressedImage, Image

    from vlaforget_ros.nodes import convert

    broken = [
        CompressedImage(format="jpeg", data=b"not a picture"),
        Image(height=5, width=7, encoding="16UC1", step=14, data=bytes(70)),
        Image(height=5, width=7, encoding="rgb8", step=21, data=bytes(100)),
        Image(height=5, width=7, encoding="rgb8", step=20, data=bytes(105)),
        Image(encoding="rgb8"),
    ]
    for message in broken:
        with pytest.raises(PolicyError) as caught:
            convert.image_array(message)
        assert caught.value.code == 209


@given(st.integers(0, 2**31 * 10**9 - 1))
def test_stamps_survive(stamp_ns: int) -> None:
    from vlaforget_ros.nodes import convert

    assert convert.nanoseconds(convert.time_message(stamp_ns)) == stamp_ns


def test_dates() -> None:
    from vlaforget_ros.nodes import convert

    message = convert.datetime_message(datetime(2026, 1, 1, 0, 0, 1, 500_000, tzinfo=UTC))
    assert (message.sec, message.nanosec) == (1767225601, 500_000_000)


def test_a_violation_survives() -> None:
    from vlaforget_ros.nodes import convert

    event = Event("zone", Severity.STOP, 12.5, 0.1, 0.0, "m", "inside", "r1", "d")
    assert event_of(convert.violation_message(event, "cell")) == event


def test_parameters_say_what_is_wrong() -> None:
    from vlaforget_ros.nodes.parameters import Parameter

    period = Parameter("tick_s", 0.1, "Control period.", "s", 0.005, 10.0)
    assert period.check(1) == 1.0
    assert period.descriptor().floating_point_range[0].to_value == 10.0
    mode = Parameter("mode", "lockstep", "Pace.", choices=("lockstep", "fixed_rate"))
    for parameter, value, says in (
        (period, 0.0, r"tick_s is unusable; value: 0\.0; limit: float 0\.005\.\.10 s"),
        (period, "fast", "write a float"),
        (period, True, "write a float"),
        (mode, "fixed", "did you mean fixed_rate"),
    ):
        with pytest.raises(PolicyError, match=says) as caught:
            parameter.check(value)
        assert caught.value.code == 208


def test_every_parameter_of_every_node_is_described_and_its_default_is_usable() -> None:
    from vlaforget_ros.nodes import (
        cell_node,
        policy_node,
        recorder_node,
        safety_monitor_node,
        unlearning_node,
    )

    modules = (cell_node, policy_node, recorder_node, safety_monitor_node, unlearning_node)
    for module in modules:
        for parameter in module.PARAMETERS:
            assert parameter.check(parameter.default) == parameter.default
            assert parameter.description.endswith(".")
            assert parameter.descriptor().description == parameter.description
