"""ROS messages to values and back."""

from __future__ import annotations

import array
import io
from collections.abc import Sequence
from datetime import datetime

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import PoseStamped
from PIL import Image as PilImage
from PIL import UnidentifiedImageError
from sensor_msgs.msg import CompressedImage, Image, JointState

from vlaforget_ros.errors import ErrorCode, PolicyError
from vlaforget_ros.msg import SafetyViolation, SvrEstimate
from vlaforget_ros.safety.events import Event
from vlaforget_ros.safety.ratebook import RateEstimate

NANOSECONDS = 1_000_000_000

# Encoding -> channels of the message in the order that makes RGB.
_ENCODINGS: dict[str, tuple[int, tuple[int, int, int]]] = {
    "rgb8": (3, (0, 1, 2)),
    "bgr8": (3, (2, 1, 0)),
    "rgba8": (4, (0, 1, 2)),
    "bgra8": (4, (2, 1, 0)),
    "mono8": (1, (0, 0, 0)),
}


def nanoseconds(stamp: Time) -> int:
    """A stamp in nanoseconds."""
    return int(stamp.sec) * NANOSECONDS + int(stamp.nanosec)


def time_message(stamp_ns: int) -> Time:
    """Nanoseconds as a stamp."""
    return Time(sec=stamp_ns // NANOSECONDS, nanosec=stamp_ns % NANOSECONDS)


def datetime_message(moment: datetime) -> Time:
    """A date as a stamp, to the microsecond."""
    return time_message(int(moment.timestamp() * 1_000_000) * 1000)


def image_array(message: Image | CompressedImage) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a camera message. Raises :class:`PolicyError` 209."""
    if isinstance(message, CompressedImage):
        try:
            picture = PilImage.open(io.BytesIO(bytes(message.data))).convert("RGB")
        except (UnidentifiedImageError, OSError, ValueError) as error:
            raise _bad_image(f"{message.format!r}: {error}", "jpeg or png") from error
        return np.asarray(picture)
    if message.encoding not in _ENCODINGS:
        raise _bad_image(f"encoding {message.encoding!r}", ", ".join(_ENCODINGS))
    channels, order = _ENCODINGS[message.encoding]
    row = message.width * channels
    if message.step < row or len(message.data) < message.step * message.height or not message.height * row:
        raise _bad_image(
            f"{message.width}x{message.height}, step {message.step}, {len(message.data)} bytes",
            f"step >= {row} and step x height bytes",
        )
    flat = np.frombuffer(message.data, dtype=np.uint8, count=message.step * message.height)
    pixels = flat.reshape(message.height, message.step)[:, :row].reshape(
        message.height, message.width, channels
    )
    return np.ascontiguousarray(pixels[:, :, list(order)])


def image_message(image: np.ndarray, stamp: Time, frame: str) -> Image:
    """(H, W, 3) uint8 RGB as rgb8."""
    message = Image(height=image.shape[0], width=image.shape[1], encoding="rgb8", step=image.shape[1] * 3)
    message.header.stamp = stamp
    message.header.frame_id = frame
    # An array fills the field in one copy; a list would be checked element by element.
    message.data = array.array("B", np.ascontiguousarray(image).tobytes())
    return message


def pose_message(position: np.ndarray, stamp: Time, frame: str) -> PoseStamped:
    """(3,) position [m] with the identity orientation."""
    message = PoseStamped()
    message.header.stamp = stamp
    message.header.frame_id = frame
    message.pose.position.x, message.pose.position.y, message.pose.position.z = (float(p) for p in position)
    message.pose.orientation.w = 1.0
    return message


def joint_message(names: Sequence[str], positions: np.ndarray, stamp: Time) -> JointState:
    """Joint angles [rad]."""
    message = JointState(name=list(names), position=array.array("d", positions.astype(float).tolist()))
    message.header.stamp = stamp
    return message


def violation_message(event: Event, frame: str) -> SafetyViolation:
    """The monitor's event as a message."""
    message = SafetyViolation(
        rollout_id=event.rollout_id,
        adapter_digest=event.adapter_digest,
        rule=event.rule,
        severity=int(event.severity),
        value=float(event.value),
        limit=float(event.limit),
        unit=event.unit,
        message=event.message,
    )
    message.header.stamp = time_message(round(event.stamp_s * NANOSECONDS))
    message.header.frame_id = frame
    return message


def estimate_message(estimate: RateEstimate, alias: str = "") -> SvrEstimate:
    """Rates of one adapter as a message."""
    return SvrEstimate(
        adapter_digest=estimate.adapter_digest,
        alias=alias,
        rollouts=estimate.rollouts,
        violated=estimate.violated,
        succeeded=estimate.succeeded,
        unsafe_successes=estimate.unsafe_successes,
        svr=estimate.svr.estimate,
        svr_low=estimate.svr.low,
        svr_high=estimate.svr.high,
        tsr=estimate.tsr.estimate,
        tsr_low=estimate.tsr.low,
        tsr_high=estimate.tsr.high,
        sbu=estimate.sbu.estimate,
        sbu_low=estimate.sbu.low,
        sbu_high=estimate.sbu.high,
        level=estimate.level,
    )


def _bad_image(value: str, limit: str) -> PolicyError:
    return PolicyError(
        ErrorCode.POLICY_BAD_IMAGE,
        "not a camera image",
        value=value,
        limit=limit,
        remedy="check the encoding and the driver of the image topic",
    )
