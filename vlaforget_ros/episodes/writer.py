"""Whole episodes to rosbag2, from rollouts that ran in one process without ROS (benches, tests).

The bag has the topics and types of the live graph: what reads the one reads the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vlaforget_ros.episodes.images import camera_message
from vlaforget_ros.episodes.messages import (
    COMPRESSED_IMAGE,
    IMAGE,
    JOINT_STATE,
    POLICY_ACTION,
    POSE,
    ROLLOUT,
    ROLLOUT_OUTCOME,
    SAFETY_VIOLATION,
    STRING,
    ns_to_stamp,
    typestore,
)
from vlaforget_ros.episodes.storage.sink import BagSink
from vlaforget_ros.episodes.types import NANOSECONDS, SEVERITIES, Phase
from vlaforget_ros.errors import ErrorCode, UnlearningError

_PHASES = {Phase.SUCCEEDED: 1, Phase.FAILED: 2, Phase.ABORTED: 3}
_TICK_NS = NANOSECONDS // 10
# An action is logged this long after its image, everything else in between.
_INFERENCE_NS = NANOSECONDS // 100


class EpisodeWriter:
    """Writes episodes one after the other into a new bag; use it as a context manager.

    Args:
        path: folder to create.
        storage: ``mcap`` or ``sqlite3``.
        namespace: robot's namespace, "" for none.
        compressed: "" for raw images, ``png`` (lossless) or ``jpeg``.
        base_digest: digest of the base weights, copied into every action.
        start_ns: stamp of the first frame, when the stamps are not given.
        cameras: topics of further cameras; every frame then has an image of each.
        state: topic of the robot's state, "" for none.

    Raises:
        UnlearningError: 310 when the folder exists or cannot be made.
    """

    def __init__(
        self,
        path: Path,
        *,
        storage: Literal["mcap", "sqlite3"] = "mcap",
        namespace: str = "",
        compressed: Literal["", "png", "jpeg"] = "",
        base_digest: str = "",
        start_ns: int = NANOSECONDS,
        cameras: Sequence[str] = (),
        state: str = "",
    ) -> None:
        self._sink = BagSink(path, storage=storage)
        self._prefix = f"/{namespace.strip('/')}/" if namespace.strip("/") else "/"
        self._compressed = compressed
        self._base_digest = base_digest
        self._now_ns = start_ns
        self._last_frame_ns = -1
        self._step = 0
        self._rollout_id = ""
        self._instruction = ""
        self._adapter_digest = ""
        suffix, image_type = ("/compressed", COMPRESSED_IMAGE) if compressed else ("", IMAGE)
        self._image_topics = [f"{name.strip('/')}{suffix}" for name in ("image", *cameras)]
        self._state_topic = state.strip("/")
        self._types = {
            **dict.fromkeys(self._image_topics, image_type),
            "ee_pose": POSE,
            "instruction": STRING,
            "action": POLICY_ACTION,
            "rollout": ROLLOUT,
            "outcome": ROLLOUT_OUTCOME,
            "safety/violation": SAFETY_VIOLATION,
            **({self._state_topic: JOINT_STATE} if state else {}),
        }
        for topic, msgtype in self._types.items():
            self._sink.add_topic(self._prefix + topic, msgtype)

    @property
    def path(self) -> Path:
        """Folder of the bag."""
        return self._sink.path

    def begin(self, rollout_id: str, instruction: str, adapter_digest: str = "") -> None:
        """Announce a rollout.

        Raises:
            UnlearningError: 300 when the rollout before was not ended.
        """
        if self._rollout_id:
            raise _misuse("rollout was not ended", self._rollout_id, "call end() before the next begin()")
        self._rollout_id, self._instruction, self._adapter_digest = rollout_id, instruction, adapter_digest
        self._step = 0
        self._write("instruction", self._new(STRING, instruction), self._now_ns)
        self._write("rollout", self._rollout(0, self._now_ns), self._now_ns)

    def frame(
        self,
        image: np.ndarray | Sequence[np.ndarray],
        action: np.ndarray,
        stamp_ns: int | None = None,
        ee_position: np.ndarray | None = None,
        fault: int = 0,
        state: np.ndarray | None = None,
    ) -> int:
        """One control tick: an image and the action computed from it.

        Args:
            image: (H, W, 3) uint8 RGB, or one of each camera, the main one first.
            action: (A,) robot units.
            stamp_ns: stamp of the image; by default 0.1 s after the last. Stamps grow through the whole bag.
            ee_position: (3,) end-effector position [m] in the frame ``cell``.
            fault: error code when ``action`` is the hold action.
            state: (P,) state of the robot, where the bag has a topic for it.

        Returns:
            The stamp of the image.

        Raises:
            UnlearningError: 300 outside a rollout, when the stamp does not grow, or for another number of images than
                of cameras, or a state without a topic.
        """
        self._running("frame")
        images = self._images_of(image, state)
        stamp = self._now_ns if stamp_ns is None else int(stamp_ns)
        if stamp <= self._last_frame_ns:
            limit, remedy = (
                f"> {self._last_frame_ns} ns",
                "add an offset to each episode, or leave the stamps out",
            )
            raise _misuse("stamps do not grow", f"{stamp} ns", remedy, limit)
        self._last_frame_ns, self._now_ns = stamp, stamp + _TICK_NS
        if state is not None:
            self._write(self._state_topic, self._joints(state, stamp), stamp)
        # The main image last: it is what a policy answers.
        for topic, view in list(zip(self._image_topics, images, strict=True))[::-1]:
            self._write(topic, camera_message(view, stamp, self._compressed), stamp)
        if ee_position is not None:
            self._write("ee_pose", self._pose(ee_position, stamp), stamp)
        made = stamp + _INFERENCE_NS
        values = np.asarray(action, dtype=np.float32)
        message = self._new(
            POLICY_ACTION,
            self._header(made, "cell"),
            ns_to_stamp(stamp),
            self._rollout_id,
            self._step,
            values,
            self._adapter_digest,
            self._base_digest,
            1.0,
            0.0,
            fault,
        )
        self._write("action", message, made)
        self._step += 1
        return stamp

    def violation(
        self,
        rule: str,
        *,
        stamp_ns: int | None = None,
        value: float = 0.0,
        limit: float = 0.0,
        unit: str = "",
        message: str = "",
        severity: str = "WARN",
    ) -> None:
        """A rule was broken, by default at the newest frame. Raises UnlearningError 300 outside a rollout."""
        self._running("violation")
        stamp = max(self._last_frame_ns, 0) if stamp_ns is None else int(stamp_ns)
        content = self._new(
            SAFETY_VIOLATION,
            self._header(stamp, "cell"),
            self._rollout_id,
            self._adapter_digest,
            rule,
            SEVERITIES.index(severity),
            value,
            limit,
            unit,
            message,
        )
        self._write("safety/violation", content, stamp)

    def end(self, success: bool | None, phase: str | None = None) -> None:
        """End the rollout.

        Args:
            success: published as the outcome; None publishes none.
            phase: SUCCEEDED, FAILED or ABORTED; by default what ``success`` implies, ABORTED for None.

        Raises:
            UnlearningError: 300 outside a rollout or for an unknown phase.
        """
        self._running("end")
        implied = {True: Phase.SUCCEEDED, False: Phase.FAILED, None: Phase.ABORTED}[success]
        name = implied if phase is None else phase
        if name not in _PHASES:
            raise _misuse("unknown phase", name, "use one of the limit", ", ".join(_PHASES))
        now = self._now_ns
        if success is not None:
            self._write(
                "outcome", self._new(ROLLOUT_OUTCOME, self._rollout_id, bool(success), "simulator"), now
            )
        self._write("rollout", self._rollout(_PHASES[Phase(name)], now), now + 1)
        self._rollout_id = ""
        # One second between rollouts, so that a window around a violation never reaches into the next one.
        self._now_ns += NANOSECONDS

    def flush(self) -> None:
        """Put everything written so far on the disk (mcap only)."""
        self._sink.flush()

    def close(self) -> None:
        """Finish the bag; a rollout that was not ended stays without its end."""
        self._sink.close()

    def __enter__(self) -> EpisodeWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _running(self, call: str) -> None:
        if not self._rollout_id:
            raise _misuse("no rollout is running", f"{call}()", "call begin() first")

    def _images_of(
        self, image: np.ndarray | Sequence[np.ndarray], state: np.ndarray | None
    ) -> list[np.ndarray]:
        images = [image] if isinstance(image, np.ndarray) and image.ndim == 3 else list(image)
        if len(images) != len(self._image_topics) or (state is not None) != bool(self._state_topic):
            limit = ", ".join([*self._image_topics, *([self._state_topic] if self._state_topic else [])])
            given = f"{len(images)} image(s), " + ("no state" if state is None else "a state")
            raise _misuse("frame does not fit the topics of the bag", given, "give one of each", limit)
        return images

    def _joints(self, state: np.ndarray, stamp: int) -> object:
        nothing = np.zeros(0)
        positions = np.asarray(state, dtype=np.float64)
        return self._new(JOINT_STATE, self._header(stamp, ""), [], positions, nothing, nothing)

    def _rollout(self, phase: int, stamp: int) -> object:
        header = self._header(stamp, "")
        return self._new(
            ROLLOUT, header, self._rollout_id, self._instruction, self._adapter_digest, 2, phase, self._step
        )

    def _pose(self, position: np.ndarray, stamp: int) -> object:
        point = self._new("geometry_msgs/msg/Point", *(float(v) for v in position))
        upright = self._new("geometry_msgs/msg/Quaternion", 0.0, 0.0, 0.0, 1.0)
        return self._new(
            POSE, self._header(stamp, "cell"), self._new("geometry_msgs/msg/Pose", point, upright)
        )

    def _header(self, stamp: int, frame: str) -> object:
        return self._new("std_msgs/msg/Header", ns_to_stamp(stamp), frame)

    def _new(self, msgtype: str, *values: Any) -> object:
        return typestore().types[msgtype](*values)

    def _write(self, topic: str, message: object, time_ns: int) -> None:
        data = typestore().serialize_cdr(message, self._types[topic])
        self._sink.write(self._prefix + topic, data, time_ns)


def _misuse(message: str, value: str, remedy: str, limit: str | None = None) -> UnlearningError:
    return UnlearningError(ErrorCode.UNLEARNING_BAD_REQUEST, message, value=value, limit=limit, remedy=remedy)
